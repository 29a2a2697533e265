package main

import (
	"errors"
	"fmt"
	"os"
	"reflect"
	"slices"
	"strings"
	"time"

	"github.com/go-viper/mapstructure/v2"
)

// kinds says of a type's name, in Go and on flags, what people write there.
var kinds = map[string]string{
	"bool": "true or false", "int": "a whole number", "int64": "a whole number", "float64": "a number", "duration": durationKind,
	"string": "a text", "[]string": "a list of texts",
}

const durationKind = "a duration, such as 30s, 10m or 24h"

// kindOf is kinds of any type: those with keys of their own, too.
func kindOf(typ reflect.Type) string {
	name := strings.ToLower(strings.TrimPrefix(typ.String(), "time."))
	if text, ok := kinds[name]; ok {
		return text
	}
	if typ.Kind() == reflect.Slice {
		return "a list"
	}
	return "a table of keys"
}

// durations reads durations, as the library's own hook does, with an error that
// shows what was written. A number without a unit would be nanoseconds.
func durations(from, to reflect.Type, data any) (any, error) {
	if from == to || to != reflect.TypeFor[time.Duration]() {
		return data, nil
	}
	d, err := time.ParseDuration(fmt.Sprint(data))
	if err != nil {
		return nil, fmt.Errorf("%q is not %s", fmt.Sprint(data), durationKind)
	}
	return d, nil
}

// misfits says of each value that could not be read where it is and what goes
// there.
func misfits(err error) (problems []string) {
	if err == nil {
		return nil
	}
	if joined, ok := err.(interface{ Unwrap() []error }); ok {
		for _, err := range joined.Unwrap() {
			problems = append(problems, misfits(err)...)
		}
		return problems
	}
	var at *mapstructure.DecodeError
	if !errors.As(err, &at) {
		return []string{err.Error()}
	}
	why := at.Unwrap().Error()
	var unread *mapstructure.ParseError
	var other *mapstructure.UnconvertibleTypeError
	if errors.As(err, &unread) {
		why = fmt.Sprintf("%q is not %s", fmt.Sprint(unread.Value), kindOf(unread.Expected.Type()))
	} else if errors.As(err, &other) {
		why = kindOf(other.Expected.Type()) + " goes here"
	}
	if name := variable(at.Name()); os.Getenv(name) != "" {
		why += " (from $" + name + ")"
	}
	return []string{at.Name() + ": " + why}
}

// variable is the environment variable of a key.
func variable(key string) string {
	return "PUSHPROXY_" + strings.ToUpper(strings.ReplaceAll(key, ".", "_"))
}

// strangers says of each key of the file that there is not which ones there are
// in its place.
func strangers(unknown []string, file string) (problems []string) {
	slices.Sort(unknown)
	for _, key := range unknown {
		path := strings.Split(key, ".")
		typ := reflect.TypeFor[Config]()
		for _, part := range path[:len(path)-1] {
			name, _, _ := strings.Cut(part, "[")
			for typ = keysOf(typ)[name]; typ.Kind() == reflect.Slice; {
				typ = typ.Elem()
			}
		}
		var known []string
		for name := range keysOf(typ) {
			known = append(known, name)
		}
		slices.Sort(known)
		problems = append(problems, fmt.Sprintf("%s: %s has a key that there is not; in its place there are %s", key, file, strings.Join(known, ", ")))
	}
	return problems
}

// strangeVariables are those of the environment that look like a key's and are
// none's.
func strangeVariables() (names []string) {
	known := []string{variable("config")}
	for _, k := range keys {
		known = append(known, variable(k.key))
	}
	for _, pair := range os.Environ() {
		name, _, _ := strings.Cut(pair, "=")
		if strings.HasPrefix(name, variable("")) && !slices.Contains(known, name) {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	return names
}

// keysOf are the keys that a struct of the configuration is read from.
func keysOf(typ reflect.Type) map[string]reflect.Type {
	list := map[string]reflect.Type{}
	for i := range typ.NumField() {
		field := typ.Field(i)
		switch key := field.Tag.Get("mapstructure"); key {
		case "": // not read from anywhere
		case ",squash":
			for name, typ := range keysOf(field.Type) {
				list[name] = typ
			}
		default:
			list[key] = field.Type
		}
	}
	return list
}

package main

import (
	"context"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestAMistakeOnTheCommandLineIsToldWithWhatGoesThere(t *testing.T) {
	clean(t)
	dir := filepath.Join(t.TempDir(), "data")
	for _, c := range []struct{ says, line, want string }{
		{"a command that there is not", "sevre", "serve"},
		{"a part of a command that there is not", "queue lst", "there is no pushproxy queue lst: it is one of drop, ls, retry, show"},
		{"a part with a flag behind it", "config chek --json", "unknown flag: --json; see pushproxy config --help"},
		{"an argument too many", "queue ls all", "all does not fit: it is written pushproxy queue ls [flags]"},
		{"an argument too few", "wait", "something is missing: it is written pushproxy wait IMAGE|JOB [flags]"},
		{"no client", "setup", "which client? There is a set-up for: docker, "},
		{"a set-up and its end", "setup docker --apply --undo", "one at a time"},
		{"nothing to check", "fsck", "there is no " + dir + ": pushproxy serve makes it"},
		{"nothing to collect", "gc", "there is no " + dir + ": pushproxy serve makes it"},
		{"a flag that there is not", "serve --listn x", "unknown flag: --listn; see pushproxy serve --help"},
		{"a duration that is none", "wait x --timeout soon", `--timeout: "soon" is not a duration, such as 30s, 10m or 24h; see pushproxy wait --help`},
		{"a number that is none", "serve --limit-uploads many", `--limit-uploads: "many" is not a whole number`},
		{"a size that is none", "serve --cache-quota 50Gx", `cache.quota: "50Gx" is not a size such as 100MB`},
		{"a percentage that is none", "fsck --read-data 200%", `--read-data: "200%" is not a percentage such as 10%`},
		{"a page that is no URL", "status --url localhost:5003", `--url: "localhost:5003" is not a URL such as http://127.0.0.1:5003`},
		{"nobody to ask for a queue", "queue ls", "no pushproxy is running with the data directory " + dir + ": start it with pushproxy serve"},
		{"nobody to wait for", "wait ghcr.io/acme/app:1", "no pushproxy is running"},
		{"nobody to show", "status", "no pushproxy is running"},
		{"nobody at a URL", "top --url http://127.0.0.1:1", "no pushproxy is running at http://127.0.0.1:1"},
		{"a verb that there is not", "token create x --verb shove", `verb "shove" is not one of pull, push, delete`},
		{"a URL for a registry", "token create x --upstream https://ghcr.io", "is not the name of a registry, such as ghcr.io"},
		{"a pattern that is none", "token create x --repository Acme/App", "such as acme/app or acme/**"},
		{"a token that has expired already", "token create x --expires -1h", "a time ahead is such as 24h"},
		{"a principal that there is not", "token create x --principal nobody", `--principal: "nobody" is not one of local; `},
		{"a token that there is not", "token revoke x", "pushproxy token list shows those there are"},
		{"no token where one is read", "login --token-stdin", "the standard input has no token; one is made by pushproxy token create"},
		{"a client that there is not", "setup dokcer", "podman"},
	} {
		t.Run(c.says, func(t *testing.T) {
			var out strings.Builder
			err := run(context.Background(), append(strings.Fields(c.line), "--data-dir", dir), &out, io.Discard)
			if err == nil || !strings.Contains(err.Error(), c.want) || strings.Contains(err.Error(), "%!") {
				t.Errorf("pushproxy %s: %v, want %q", c.line, err, c.want)
			}
			if strings.Contains(out.String(), "ppx_") {
				t.Errorf("pushproxy %s made a token", c.line)
			}
		})
	}
}

func TestHelpShowsTheFlagsOfAllKeysWhereTheyBelongAlone(t *testing.T) {
	for line, all := range map[string]bool{"": true, "serve": true, "wait": false, "queue": false, "token create": false, "doctor": false} {
		var out strings.Builder
		if err := run(context.Background(), append(strings.Fields(line), "--help"), &out, io.Discard); err != nil {
			t.Fatal(err)
		}
		if strings.Contains(out.String(), "--limit-uploads") != all || !strings.Contains(out.String(), "--config file") {
			t.Errorf("pushproxy %s --help:\n%s", line, &out)
		}
		if !all && !strings.Contains(out.String(), "see pushproxy serve --help") {
			t.Errorf("pushproxy %s --help does not say where the others are:\n%s", line, &out)
		}
	}
}

func TestTheVersionIsAFlagToo(t *testing.T) {
	var command, flag strings.Builder
	err := errors.Join(run(context.Background(), []string{"version"}, &command, io.Discard), run(context.Background(), []string{"--version"}, &flag, io.Discard))
	if err != nil || flag.String() != command.String() || !strings.HasPrefix(flag.String(), "pushproxy ") {
		t.Errorf("%v\n%s%s", err, &command, &flag)
	}
}

func TestACommandOfPartsShowsThem(t *testing.T) {
	for _, c := range []string{"queue", "token", "ca", "config", "secret"} {
		var out strings.Builder
		if err := run(context.Background(), []string{c}, &out, io.Discard); err != nil || !strings.Contains(out.String(), "Available Commands") {
			t.Errorf("%s: %v\n%s", c, err, &out)
		}
	}
}

func TestTheCheckOfAConfigurationSaysWhatIsSpecialAboutUpstreams(t *testing.T) {
	clean(t)
	t.Setenv("PUSHPROXY_UPSTREAMS", `[{"host":"a.test","aliases":["corp"],"mode":"async","bandwidth":"2MiB","quiet_hours":["08:00-18:30"],"routes":[{"match":"b/*","mode":"sync"}],"concurrency":3}]`)
	t.Setenv("DOCKER_AUTH_CONFIG", `{"auths":{"b.test":{"auth":"dTpw"},"localhost:5001":{"auth":"dTpw"}}}`)
	var out strings.Builder
	if err := run(context.Background(), []string{"config", "check", "--forward-proxy-listen="}, &out, io.Discard); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{
		"upstream a.test: https://a.test; also called corp; async; b/* sync; 3 uploads at once; at most 2MiB a second; nothing queued is sent 08:00-18:30\n",
		"forward_proxy: off\n",
		"logged in to: b.test\n",
	} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("%q is not in\n%s", want, &out)
		}
	}
}

func TestSudoWithRootsHomeIsNoticed(t *testing.T) {
	home := clean(t)
	for person, noticed := range map[string]bool{"": false, "0": false, "1000": os.Geteuid() == 0} {
		t.Setenv("SUDO_UID", person)
		for _, more := range [][]string{nil, {"--data-dir", filepath.Join(home, "said")}} {
			var errs strings.Builder
			if err := run(context.Background(), append([]string{"setup", "crane", "--root", home}, more...), io.Discard, &errs); err != nil {
				t.Fatal(err)
			}
			if got := strings.Contains(errs.String(), `sudo env HOME="$HOME"`); got != (noticed && more == nil) {
				t.Errorf("SUDO_UID=%q %v: %q", person, more, &errs)
			}
		}
	}
}

package parts

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
)

// Change is a text of a source file, from the module's top folder, and what takes its place. Where Old is empty, New is a
// file of its own.
type Change struct{ File, Old, New string }

// BuildChanged builds this checkout's program with changes that exist in that build alone, and returns its path below dir.
// A text that is not in its file exactly once is an error.
func BuildChanged(ctx context.Context, dir, name string, race bool, changes []Change) (string, error) {
	root, err := Root()
	if err != nil {
		return "", err
	}
	replace, texts := map[string]string{}, map[string]string{}
	for _, c := range changes {
		path := filepath.Join(root, filepath.FromSlash(c.File))
		text, seen := texts[path]
		if !seen && c.Old != "" {
			raw, err := os.ReadFile(path)
			if err != nil {
				return "", err
			}
			text = string(raw)
		}
		if c.Old != "" && strings.Count(text, c.Old) != 1 {
			return "", fmt.Errorf("%s holds %q %d times, not once", c.File, c.Old, strings.Count(text, c.Old))
		}
		if c.Old == "" {
			text = c.New
		} else {
			text = strings.Replace(text, c.Old, c.New, 1)
		}
		texts[path] = text
	}
	work, err := os.MkdirTemp(dir, name+"-")
	if err != nil {
		return "", err
	}
	for path, text := range texts {
		to := filepath.Join(work, strings.ReplaceAll(path, string(filepath.Separator), "_"))
		if err := os.WriteFile(to, []byte(text), 0o600); err != nil {
			return "", err
		}
		replace[path] = to
	}
	overlay, err := json.Marshal(map[string]any{"Replace": replace})
	if err != nil {
		return "", err
	}
	file, program := filepath.Join(work, "overlay.json"), filepath.Join(work, "pushproxy")
	if err := os.WriteFile(file, overlay, 0o600); err != nil {
		return "", err
	}
	args := []string{"build", "-overlay", file, "-o", program}
	if race {
		args = append(args, "-race")
	}
	cmd := exec.CommandContext(ctx, "go", append(args, "./cmd/pushproxy")...)
	cmd.Dir = root
	if out, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("go build with changes: %w\n%s", err, tail(string(out)))
	}
	return program, nil
}

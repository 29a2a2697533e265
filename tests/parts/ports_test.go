package parts

import (
	"bufio"
	"fmt"
	"os"
	"os/exec"
	"testing"
)

// otherAsks makes the test binary another program that asks for ports, as many as the value says.
const otherAsks = "PUSHPROXY_TEST_PORTS"

func TestNoTwoWhoAskAreGivenTheSamePort(t *testing.T) {
	var n int
	if _, err := fmt.Sscan(os.Getenv(otherAsks), &n); err == nil {
		for range n {
			port, err := FreePort()
			fmt.Println("port", port, err)
		}
		_, _ = os.Stdin.Read(make([]byte, 1)) // to its end: it holds them as long as it lives
		return
	}
	given := map[int]string{}
	note := func(port int, who string) {
		if other, ok := given[port]; ok {
			t.Errorf("port %d is given to %s and to %s", port, other, who)
		}
		if port < firstPort || port >= firstPort+portBlocks*blockSize {
			t.Errorf("port %d is given to %s", port, who)
		}
		given[port] = who
	}
	const many = 3 * blockSize / 2
	for who := range 20 {
		cmd := exec.CommandContext(t.Context(), os.Args[0], "-test.run=^TestNoTwoWhoAskAreGivenTheSamePort$")
		cmd.Env = append(os.Environ(), fmt.Sprintf("%s=%d", otherAsks, many))
		in, err := cmd.StdinPipe()
		if err != nil {
			t.Fatal(err)
		}
		out, err := cmd.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = in.Close(); _ = cmd.Wait() })
		lines := bufio.NewScanner(out)
		for range many {
			var port int
			if lines.Scan(); lines.Err() != nil {
				t.Fatal(lines.Err())
			}
			if _, err := fmt.Sscanf(lines.Text(), "port %d <nil>", &port); err != nil {
				t.Fatalf("%q: %v", lines.Text(), err)
			}
			note(port, fmt.Sprint("program ", who))
		}
		port, err := FreePort()
		if err != nil {
			t.Fatal(err)
		}
		note(port, "this one")
	}
}

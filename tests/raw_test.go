package tests

import (
	"bufio"
	"bytes"
	"compress/gzip"
	"crypto/sha512"
	"encoding/hex"
	"fmt"
	"io"
	"net"
	"net/http"
	"testing"
	"time"
)

// rawClient writes requests as they are, one after the other on one connection for as long as that lasts.
type rawClient struct {
	t    *testing.T
	port int
	conn net.Conn
	r    *bufio.Reader
}

func newRawClient(t *testing.T, port int) *rawClient {
	t.Helper()
	c := &rawClient{t: t, port: port}
	t.Cleanup(func() {
		if c.conn != nil {
			_ = c.conn.Close()
		}
	})
	return c
}

// ask returns the status of the answer to a request without a body, 400 where the connection is closed without one.
func (c *rawClient) ask(method, target string, header ...string) int {
	c.t.Helper()
	if c.conn == nil {
		conn, err := net.DialTimeout("tcp", fmt.Sprintf("127.0.0.1:%d", c.port), patience)
		if err != nil {
			c.t.Fatal(err)
		}
		c.conn, c.r = conn, bufio.NewReader(conn)
	}
	_ = c.conn.SetDeadline(time.Now().Add(time.Minute))
	request := fmt.Sprintf("%s %s HTTP/1.1\r\nHost: localhost:%d\r\n", method, target, c.port)
	for i := 0; i+1 < len(header); i += 2 {
		request += header[i] + ": " + header[i+1] + "\r\n"
	}
	_, err := io.WriteString(c.conn, request+"\r\n")
	var resp *http.Response
	if err == nil {
		resp, err = http.ReadResponse(c.r, &http.Request{Method: method})
	}
	if err != nil {
		c.drop()
		return http.StatusBadRequest
	}
	_, err = io.Copy(io.Discard, resp.Body)
	_ = resp.Body.Close()
	if err != nil || resp.Close {
		c.drop()
	}
	return resp.StatusCode
}

func (c *rawClient) drop() {
	_ = c.conn.Close()
	c.conn = nil
}

func gzipped(content []byte) []byte {
	var buf bytes.Buffer
	w := gzip.NewWriter(&buf)
	_, _ = w.Write(content)
	_ = w.Close()
	return buf.Bytes()
}

func sha512Of(content []byte) string {
	sum := sha512.Sum512(content)
	return hex.EncodeToString(sum[:])
}

// Keeps a user online until it is stopped, then goes offline at once. Needs only Go 1.18 or newer:
//
//	go run heartbeat.go alice
//	go run heartbeat.go alice phone      # with a session, one device of alice
//
// KEYBEAT_URL is the URL of the daemon (default http://127.0.0.1:7400), KEYBEAT_TOKEN a token for it.
package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"os/signal"
	"syscall"
	"time"
)

const (
	ttl   = 30 * time.Second
	every = ttl / 3 // so that two may be lost
)

var client = http.Client{Timeout: 5 * time.Second}

func call(method, address string, body []byte) error {
	request, err := http.NewRequest(method, address, bytes.NewReader(body))
	if err != nil {
		return err
	}
	request.Header.Set("Content-Type", "application/json")
	if token := os.Getenv("KEYBEAT_TOKEN"); token != "" {
		request.Header.Set("Authorization", "Bearer "+token)
	}
	answer, err := client.Do(request)
	if err != nil {
		return err
	}
	defer answer.Body.Close()
	text, err := io.ReadAll(answer.Body)
	if err == nil && answer.StatusCode != http.StatusNoContent {
		err = fmt.Errorf("%s: %s", answer.Status, text)
	}
	return err
}

func main() {
	daemon, user, goodbye := os.Getenv("KEYBEAT_URL"), "alice", ""
	if daemon == "" {
		daemon = "http://127.0.0.1:7400"
	}
	beat := map[string]any{"ttl_ms": ttl.Milliseconds()}
	if len(os.Args) > 1 {
		user = os.Args[1]
	}
	if len(os.Args) > 2 {
		beat["session"] = os.Args[2]
		goodbye = "?session=" + url.QueryEscape(os.Args[2])
	}
	body, err := json.Marshal(beat)
	if err != nil {
		panic(err)
	}
	path := daemon + "/v1/users/" + url.PathEscape(user)

	stopped := make(chan os.Signal, 1)
	signal.Notify(stopped, os.Interrupt, syscall.SIGTERM)
	fmt.Println(user, "is kept online; stop with Ctrl-C")
	for ticks := time.NewTicker(every); ; {
		// Print a failure and go on: the next heartbeat may succeed.
		if err := call("PUT", path+"/heartbeat", body); err != nil {
			fmt.Fprintln(os.Stderr, "a heartbeat failed:", err)
		}
		select {
		case <-ticks.C:
		case <-stopped:
			if err := call("DELETE", path+goodbye, nil); err != nil {
				fmt.Fprintf(os.Stderr, "the goodbye failed, so %s goes offline when the TTL ends: %v\n", user, err)
				os.Exit(1)
			}
			return
		}
	}
}

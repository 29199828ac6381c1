// Load generator: keeps a number of connections busy with requests that were made beforehand, and says how many were
// answered, and how fast. One goroutine for each connection, nothing allocated for a request, no library: on two cores
// each microsecond that it takes is one that the server lacks.
//
//	load-generator CONNECTIONS WARM_UP_SECONDS SECONDS < requests.json
//
// Standard input: {"address": "127.0.0.1:8200", "requests": ["POST /v1/... HTTP/1.1\r\n..."]}. Each request is sent
// whole, over a kept connection, in turn. Standard output: one JSON object. An answer is read by its Content-Length or
// to its last chunk; one whose status is not 200 counts as a failure.
package main

import (
	"bufio"
	"bytes"
	"encoding/json"
	"fmt"
	"net"
	"os"
	"sort"
	"strconv"
	"sync"
	"time"
)

type load struct {
	Address  string   `json:"address"`
	Requests []string `json:"requests"`
}

type outcome struct {
	Requests  int     `json:"requests"` // the warm-up's too
	PerSecond float64 `json:"per_second"`
	P50       float64 `json:"p50_ms"`
	P99       float64 `json:"p99_ms"`
	Failures  int     `json:"failures"`
	Status    int     `json:"first_bad_status"`
}

type caller struct {
	answered, failures, status int
	latencies                  []time.Duration
}

func main() {
	if err := run(); err != nil {
		fmt.Fprintln(os.Stderr, "load-generator:", err)
		os.Exit(1)
	}
}

func run() error {
	if len(os.Args) != 4 {
		return fmt.Errorf("usage: load-generator CONNECTIONS WARM_UP_SECONDS SECONDS < requests.json")
	}
	connections, err := strconv.Atoi(os.Args[1])
	if err != nil {
		return err
	}
	warmUp, err := time.ParseDuration(os.Args[2] + "s")
	if err != nil {
		return err
	}
	lasts, err := time.ParseDuration(os.Args[3] + "s")
	if err != nil {
		return err
	}
	var given load
	if err := json.NewDecoder(os.Stdin).Decode(&given); err != nil {
		return err
	}
	requests := make([][]byte, len(given.Requests))
	for i, text := range given.Requests {
		requests[i] = []byte(text)
	}
	countedFrom := time.Now().Add(warmUp)
	until := countedFrom.Add(lasts)
	callers := make([]caller, connections)
	failed := make(chan error, connections)
	var all sync.WaitGroup
	for i := range callers {
		all.Add(1)
		go func() {
			defer all.Done()
			if err := callers[i].work(given.Address, requests, i*len(requests)/connections, countedFrom, until); err != nil {
				failed <- err
			}
		}()
	}
	all.Wait()
	select {
	case err := <-failed:
		return err
	default:
	}
	return json.NewEncoder(os.Stdout).Encode(summary(callers, lasts))
}

func (c *caller) work(address string, requests [][]byte, next int, countedFrom, until time.Time) error {
	connection, err := net.Dial("tcp", address)
	if err != nil {
		return err
	}
	defer connection.Close()
	answers := bufio.NewReaderSize(connection, 16384)
	started := time.Now()
	for started.Before(until) {
		if _, err := connection.Write(requests[next]); err != nil {
			return err
		}
		next = (next + 1) % len(requests)
		status, err := read(answers)
		if err != nil {
			return err
		}
		ended := time.Now()
		c.answered++
		if status != 200 {
			c.failures++
			c.status = status
		} else if ended.After(countedFrom) && ended.Before(until) {
			c.latencies = append(c.latencies, ended.Sub(started))
		}
		started = ended
	}
	return nil
}

// read takes one answer off the connection and returns its status.
func read(answers *bufio.Reader) (int, error) {
	line, err := answers.ReadSlice('\n')
	if err != nil {
		return 0, err
	}
	if len(line) < 12 {
		return 0, fmt.Errorf("not an HTTP answer")
	}
	status, err := strconv.Atoi(string(line[9:12]))
	if err != nil {
		return 0, err
	}
	length, chunked := 0, false
	for {
		line, err := answers.ReadSlice('\n')
		if err != nil {
			return 0, err
		}
		name, value, isHeader := bytes.Cut(bytes.TrimSpace(line), []byte(":"))
		if !isHeader {
			break
		}
		if bytes.EqualFold(name, []byte("content-length")) {
			if length, err = strconv.Atoi(string(bytes.TrimSpace(value))); err != nil {
				return 0, err
			}
		} else if bytes.EqualFold(name, []byte("transfer-encoding")) {
			chunked = true
		}
	}
	if !chunked {
		_, err := answers.Discard(length)
		return status, err
	}
	for {
		line, err := answers.ReadSlice('\n')
		if err != nil {
			return 0, err
		}
		size, err := strconv.ParseInt(string(bytes.TrimSpace(line)), 16, 32)
		if err != nil {
			return 0, err
		}
		if _, err := answers.Discard(int(size) + 2); err != nil { // and the line end after the chunk
			return 0, err
		}
		if size == 0 {
			return status, nil
		}
	}
}

func summary(callers []caller, lasted time.Duration) outcome {
	var latencies []time.Duration
	var sum outcome
	for i := range callers {
		latencies = append(latencies, callers[i].latencies...)
		sum.Requests += callers[i].answered
		sum.Failures += callers[i].failures
		if callers[i].status != 0 {
			sum.Status = callers[i].status
		}
	}
	sort.Slice(latencies, func(i, j int) bool { return latencies[i] < latencies[j] })
	sum.PerSecond = float64(len(latencies)) / lasted.Seconds()
	if len(latencies) > 0 {
		sum.P50 = milliseconds(latencies[len(latencies)/2])
		sum.P99 = milliseconds(latencies[len(latencies)*99/100])
	}
	return sum
}

func milliseconds(duration time.Duration) float64 {
	return float64(duration) / float64(time.Millisecond)
}

// A generic gRPC client of raw messages, so that what the benchmarks measure is the server and not the client.
//
// Each line on stdin is one load as JSON (benchmarks/driving.py describes it), each line on stdout what came of it.
// Messages are bytes that the caller has encoded; replies are counted, not parsed.
package main

import (
	"bufio"
	"context"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"io"
	"math/rand"
	"os"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/mem"
)

const (
	deadline   = 120 * time.Second
	mostBytes  = 64 << 20
	dataTag    = 0x12
	stampBytes = 16
)

type load struct {
	Target   string   `json:"target"`
	Method   string   `json:"method"`
	Kind     string   `json:"kind"`
	Requests [][]byte `json:"requests"`
	Callers  int      `json:"callers"`
	Size     int      `json:"size"`
	Frame    int      `json:"frame"`
	Seed     uint64   `json:"seed"`
}

type done struct {
	Seconds float64   `json:"seconds"`
	Calls   []float64 `json:"calls"`
	Bytes   int64     `json:"bytes"`
	Largest int64     `json:"largest"`
	CPU     float64   `json:"cpu"`
	Error   string    `json:"error"`
}

// raw passes messages through: []byte out, *int64 (the length) in.
type raw struct{}

func (raw) Name() string { return "proto" }

func (raw) Marshal(message any) (mem.BufferSlice, error) {
	return mem.BufferSlice{mem.SliceBuffer(message.([]byte))}, nil
}

func (raw) Unmarshal(data mem.BufferSlice, message any) error {
	*message.(*int64) = int64(data.Len())
	return nil
}

var (
	connections = map[string]*grpc.ClientConn{}
	payloads    = map[[2]int][][]byte{}
)

func connected(target string) (*grpc.ClientConn, error) {
	if found := connections[target]; found != nil {
		return found, nil
	}
	made, err := grpc.NewClient(target,
		grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithDefaultCallOptions(grpc.ForceCodecV2(raw{}), grpc.WaitForReady(true),
			grpc.MaxCallRecvMsgSize(mostBytes), grpc.MaxCallSendMsgSize(mostBytes)))
	if err == nil {
		connections[target] = made
	}
	return made, err
}

// framed is the data message that carries a part of a payload.
func framed(part []byte) []byte {
	return append(binary.AppendUvarint([]byte{dataTag}, uint64(len(part))), part...)
}

// payload is the data frames of one object, made once for each size.
func payload(size, frame int) [][]byte {
	if found, ok := payloads[[2]int{size, frame}]; ok {
		return found
	}
	bytes := make([]byte, size)
	rand.New(rand.NewSource(int64(size))).Read(bytes)
	frames := [][]byte{}
	for at := 0; at < size; at += frame {
		frames = append(frames, framed(bytes[at:min(at+frame, size)]))
	}
	payloads[[2]int{size, frame}] = frames
	return frames
}

// stamped is the first frame with bytes that no other upload of the store has, so that nothing is deduplicated.
func stamped(first []byte, size, frame int, seed, number uint64) []byte {
	if size < stampBytes {
		return first
	}
	own := append([]byte(nil), first...)
	at := len(first) - min(size, frame)
	binary.BigEndian.PutUint64(own[at:], seed)
	binary.BigEndian.PutUint64(own[at+8:], number)
	return own
}

type caller struct {
	connection *grpc.ClientConn
	load       load
	frames     [][]byte
	bytes      atomic.Int64
	largest    atomic.Int64
}

func (c *caller) call(number int) error {
	ctx, cancel := context.WithTimeout(context.Background(), deadline)
	defer cancel()
	request := c.load.Requests[number]
	if c.load.Kind == "unary" {
		var length int64
		err := c.connection.Invoke(ctx, c.load.Method, request, &length)
		c.count(length)
		return err
	}
	description := &grpc.StreamDesc{ServerStreams: c.load.Kind == "download", ClientStreams: c.load.Kind == "upload"}
	stream, err := c.connection.NewStream(ctx, description, c.load.Method)
	if err != nil {
		return err
	}
	if err := stream.SendMsg(request); err != nil && err != io.EOF {
		return err
	}
	if c.load.Kind == "upload" {
		return c.upload(stream, number)
	}
	if err := stream.CloseSend(); err != nil {
		return err
	}
	for {
		var length int64
		if err := stream.RecvMsg(&length); err == io.EOF {
			return nil
		} else if err != nil {
			return err
		}
		c.count(length)
	}
}

func (c *caller) upload(stream grpc.ClientStream, number int) error {
	for index, frame := range c.frames {
		if index == 0 {
			frame = stamped(frame, c.load.Size, c.load.Frame, c.load.Seed, uint64(number))
		}
		if err := stream.SendMsg(frame); err == io.EOF {
			break // the status comes with the answer
		} else if err != nil {
			return err
		}
	}
	if err := stream.CloseSend(); err != nil {
		return err
	}
	var length int64
	err := stream.RecvMsg(&length)
	c.count(length)
	return err
}

func (c *caller) count(length int64) {
	c.bytes.Add(length)
	for {
		before := c.largest.Load()
		if length <= before || c.largest.CompareAndSwap(before, length) {
			return
		}
	}
}

func run(wanted load) done {
	connection, err := connected(wanted.Target)
	if err != nil {
		return done{Error: err.Error()}
	}
	work := &caller{connection: connection, load: wanted}
	if wanted.Kind == "upload" {
		work.frames = payload(wanted.Size, wanted.Frame)
	}
	seconds := make([]float64, len(wanted.Requests))
	failures := make(chan error, wanted.Callers)
	var next atomic.Int64
	var waiting sync.WaitGroup
	cpu, started := cpuSeconds(), time.Now()
	for range wanted.Callers {
		waiting.Add(1)
		go func() {
			defer waiting.Done()
			for number := int(next.Add(1)) - 1; number < len(seconds); number = int(next.Add(1)) - 1 {
				began := time.Now()
				if err := work.call(number); err != nil {
					failures <- err
					return
				}
				seconds[number] = time.Since(began).Seconds()
			}
		}()
	}
	waiting.Wait()
	found := done{
		Seconds: time.Since(started).Seconds(), CPU: cpuSeconds() - cpu, Calls: seconds,
		Bytes: work.bytes.Load(), Largest: work.largest.Load(),
	}
	select {
	case err := <-failures:
		found.Error = err.Error()
	default:
	}
	return found
}

func cpuSeconds() float64 {
	var usage syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &usage); err != nil {
		return 0
	}
	return float64(usage.Utime.Nano()+usage.Stime.Nano()) / 1e9
}

func main() {
	input := bufio.NewReader(os.Stdin)
	output := json.NewEncoder(os.Stdout)
	for {
		line, err := input.ReadBytes('\n')
		if err != nil {
			return
		}
		var wanted load
		if err := json.Unmarshal(line, &wanted); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(2)
		}
		if err := output.Encode(run(wanted)); err != nil {
			os.Exit(1)
		}
	}
}

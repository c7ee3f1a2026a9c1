// The other implementation: HashiCorp's yamux, as one end of a tunnel.
//
//	main dial ADDRESS MODE STREAMS BYTES     dials: the yamux client
//	main listen - MODE STREAMS BYTES         prints its address and accepts one connection: the yamux server
//
// MODE is "echo" (answer what the peer sends on its streams) or "check" (open STREAMS streams at once, send
// BYTES bytes on each, and see that they come back).
package main

import (
	"bytes"
	"fmt"
	"io"
	"net"
	"os"
	"strconv"
	"sync"

	"github.com/hashicorp/yamux"
)

func fail(err error) {
	if err != nil {
		fmt.Println("failed:", err)
		os.Exit(1)
	}
}

func connect() (net.Conn, bool) {
	if os.Args[1] == "dial" {
		conn, err := net.Dial("tcp", os.Args[2])
		fail(err)
		return conn, true
	}
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	fail(err)
	fmt.Println(listener.Addr())
	conn, err := listener.Accept()
	fail(err)
	return conn, false
}

func check(session *yamux.Session, number int, size int) {
	stream, err := session.Open()
	fail(err)
	data := bytes.Repeat([]byte{byte(number), 1, 2, 3, 5, 7, 11}, size/7+1)[:size]
	go func() {
		_, err := stream.Write(data)
		fail(err)
	}()
	answer := make([]byte, size)
	_, err = io.ReadFull(stream, answer)
	fail(err)
	if !bytes.Equal(data, answer) {
		fail(fmt.Errorf("stream %d: the answer differs", number))
	}
	fail(stream.Close())
	rest, err := io.ReadAll(stream)
	fail(err)
	if len(rest) != 0 {
		fail(fmt.Errorf("stream %d: more came back than was sent", number))
	}
}

func main() {
	streams, _ := strconv.Atoi(os.Args[4])
	size, _ := strconv.Atoi(os.Args[5])
	conn, dialled := connect()
	config := yamux.DefaultConfig()
	config.MaxStreamWindowSize = 512 * 1024
	var session *yamux.Session
	var err error
	if dialled {
		session, err = yamux.Client(conn, config)
	} else {
		session, err = yamux.Server(conn, config)
	}
	fail(err)
	_, err = session.Ping()
	fail(err)
	if os.Args[3] == "echo" {
		for {
			stream, err := session.Accept()
			if err != nil {
				break
			}
			go func() {
				io.Copy(stream, stream)
				stream.Close()
			}()
		}
		fmt.Println("ok", session.NumStreams())
		return
	}
	var group sync.WaitGroup
	for number := 0; number < streams; number++ {
		group.Add(1)
		go func(number int) {
			defer group.Done()
			check(session, number, size)
		}(number)
	}
	group.Wait()
	_, err = session.Ping()
	fail(err)
	fail(session.GoAway())
	fmt.Println("ok")
	session.Close()
}

// streamclient is a client of a streaming server as kubectl and crictl are: client-go's own executors and port forwarder, with a
// command line for tests.
//
//	streamclient [flags] exec URL       standard streams are the command's; its exit code is ours
//	streamclient [flags] forward URL PORT...   prints "LOCAL REMOTE" for each port, and forwards until standard input ends
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"os/signal"
	"strings"
	"syscall"

	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/portforward"
	"k8s.io/client-go/tools/remotecommand"
	"k8s.io/client-go/transport/spdy"
	clientexec "k8s.io/client-go/util/exec"
)

// Other than a command's.
const failed = 250

var (
	websocket = flag.Bool("websocket", false, "a WebSocket in place of SPDY")
	protocols = flag.String("protocols", "", "protocols to ask for, best first, separated by commas; client-go's own if empty")
	ca        = flag.String("ca", "", "the certificate of the server's authority, in PEM")
	streams   = flag.String("streams", "oe", "i, o, e: the standard streams of the command")
	tty       = flag.Bool("tty", false, "the command has a terminal")
	sizes     = flag.String("sizes", "", "its sizes, COLUMNSxROWS separated by commas: the next one at each SIGUSR1")
)

func main() {
	flag.Parse()
	args := flag.Args()
	if len(args) < 2 {
		flag.Usage()
		os.Exit(failed)
	}
	target, err := url.Parse(args[1])
	if err == nil {
		config := &rest.Config{Host: target.Host, TLSClientConfig: rest.TLSClientConfig{CAFile: *ca}}
		if args[0] == "exec" {
			err = run(config, target)
		} else {
			err = forward(config, target, args[2:])
		}
	}
	var exit clientexec.CodeExitError
	if errors.As(err, &exit) {
		os.Exit(exit.Code)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "streamclient:", err)
		os.Exit(failed)
	}
}

func run(config *rest.Config, target *url.URL) error {
	asked := strings.Split(*protocols, ",")
	executor, err := func() (remotecommand.Executor, error) {
		if *websocket && *protocols == "" {
			return remotecommand.NewWebSocketExecutor(config, http.MethodGet, target.String())
		} else if *websocket {
			return remotecommand.NewWebSocketExecutorForProtocols(config, http.MethodGet, target.String(), asked...)
		} else if *protocols == "" {
			return remotecommand.NewSPDYExecutor(config, http.MethodPost, target)
		}
		transport, upgrader, err := spdy.RoundTripperFor(config)
		if err != nil {
			return nil, err
		}
		return remotecommand.NewSPDYExecutorForProtocols(transport, upgrader, http.MethodPost, target, asked...)
	}()
	if err != nil {
		return err
	}
	options := remotecommand.StreamOptions{Tty: *tty}
	if strings.Contains(*streams, "i") {
		options.Stdin = os.Stdin
	}
	if strings.Contains(*streams, "o") {
		options.Stdout = os.Stdout
	}
	if strings.Contains(*streams, "e") {
		options.Stderr = os.Stderr
	}
	if *sizes != "" {
		next := make(chan os.Signal, 1)
		signal.Notify(next, syscall.SIGUSR1)
		options.TerminalSizeQueue = &queue{strings.Split(*sizes, ","), next, true}
	}
	return executor.StreamWithContext(context.Background(), options)
}

type queue struct {
	rest  []string
	next  chan os.Signal
	first bool
}

func (q *queue) Next() *remotecommand.TerminalSize {
	if !q.first {
		<-q.next
	}
	q.first = false
	if len(q.rest) == 0 {
		return nil
	}
	var size remotecommand.TerminalSize
	if _, err := fmt.Sscanf(q.rest[0], "%dx%d", &size.Width, &size.Height); err != nil {
		panic(err)
	}
	q.rest = q.rest[1:]
	return &size
}

func forward(config *rest.Config, target *url.URL, ports []string) error {
	transport, upgrader, err := spdy.RoundTripperFor(config)
	if err != nil {
		return err
	}
	dialer := spdy.NewDialer(upgrader, &http.Client{Transport: transport}, http.MethodPost, target)
	if *websocket {
		if dialer, err = portforward.NewSPDYOverWebsocketDialer(target, config); err != nil {
			return err
		}
	}
	for i, port := range ports {
		ports[i] = ":" + port
	}
	stop, ready := make(chan struct{}), make(chan struct{})
	forwarder, err := portforward.New(dialer, ports, stop, ready, io.Discard, os.Stderr)
	if err != nil {
		return err
	}
	go func() {
		<-ready
		forwarded, err := forwarder.GetPorts()
		if err != nil {
			panic(err)
		}
		for _, port := range forwarded {
			fmt.Println(port.Local, port.Remote)
		}
		if _, err := io.Copy(io.Discard, os.Stdin); err != nil {
			panic(err)
		}
		close(stop)
	}()
	return forwarder.ForwardPorts()
}

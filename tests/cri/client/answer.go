package main

import (
	"context"
	"net"
	"path/filepath"

	"google.golang.org/grpc"
	"google.golang.org/grpc/encoding"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/protoadapt"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// The answer of a server that has it ready.
type ready []byte

// Bytes as they are.
type asIs struct{}

func (asIs) Marshal(message any) ([]byte, error) { return message.(ready), nil }
func (asIs) Unmarshal(_ []byte, _ any) error     { return nil }
func (asIs) Name() string                        { return "proto" }

var _ encoding.Codec = asIs{}

// The floor of ListContainers: the same client, and a server that answers with the bytes of an earlier answer.
func answering(list *cri.ListContainersResponse) string {
	bytes, err := proto.Marshal(protoadapt.MessageV2Of(list))
	if err != nil {
		fail("the answer", err)
	}
	socket := filepath.Join(*dir, "floor.sock")
	listener, err := net.Listen("unix", socket)
	if err != nil {
		fail(socket, err)
	}
	answer := func(_ any, stream grpc.ServerStream) error {
		if err := stream.RecvMsg(nil); err != nil {
			return err
		}
		return stream.SendMsg(ready(bytes))
	}
	server := grpc.NewServer(grpc.ForceServerCodec(asIs{}), grpc.UnknownServiceHandler(answer))
	go func() { fail(socket, server.Serve(listener)) }()
	return "unix://" + socket
}

func timeList(client cri.RuntimeServiceClient, name string) *cri.ListContainersResponse {
	return timed(name, func(ctx context.Context) (*cri.ListContainersResponse, error) {
		return client.ListContainers(ctx, &cri.ListContainersRequest{}, grpc.WaitForReady(true))
	})
}

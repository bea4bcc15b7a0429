// criclient times the calls that a kubelet makes of a CRI server, one after another, each on a connection that is open already.
//
//	criclient -endpoint unix:///... -image IMAGE -dir DIRECTORY [-prefix NAME] -lives N    N lives of a pod of one container
//	criclient ... -keep N                                      N pods that stay, with one container each
//	criclient ... -list N                                      ListContainers, N times; as "answered" of a server that has the answer ready
//	criclient ... -remove                                      stops and removes all pods
//
// The image's /program prints "stamp NANOSECONDS" of the monotonic clock first, and ends at SIGTERM. Prints a JSON object: for each
// call the nanoseconds that it took, each time; "running" is from the beginning of RunPodSandbox to that stamp.
package main

import (
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"
)

var (
	endpoint = flag.String("endpoint", "", "the server's socket")
	image    = flag.String("image", "", "the image")
	dir      = flag.String("dir", "", "where logs go")
	prefix   = flag.String("prefix", "life", "what names of pods begin with")
	lives    = flag.Int("lives", 0, "whole lives of pods")
	keep     = flag.Int("keep", 0, "pods that stay")
	list     = flag.Int("list", 0, "times ListContainers")
	remove   = flag.Bool("remove", false, "stop and remove all pods")
)

var took = map[string][]int64{}

func monotonic() int64 {
	var t unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_MONOTONIC, &t); err != nil {
		fail("clock_gettime", err)
	}
	return t.Nano()
}

func fail(what string, err error) {
	fmt.Fprintf(os.Stderr, "criclient: %s: %v\n", what, err)
	os.Exit(1)
}

func timed[T any](name string, call func(context.Context) (T, error)) T {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	begin := monotonic()
	answer, err := call(ctx)
	took[name] = append(took[name], monotonic()-begin)
	if err != nil {
		fail(name, err)
	}
	return answer
}

// The stamp that the program printed, from its log.
func stamp(log string) int64 {
	for deadline := time.Now().Add(20 * time.Second); time.Now().Before(deadline); time.Sleep(time.Millisecond) {
		text, err := os.ReadFile(log)
		if err != nil && !os.IsNotExist(err) {
			fail("the log", err)
		}
		if _, after, found := strings.Cut(string(text), " stamp "); found && strings.HasSuffix(after, "\n") {
			var at int64
			if _, err := fmt.Sscan(after, &at); err != nil {
				fail("the stamp", err)
			}
			return at
		}
	}
	fail("the stamp", fmt.Errorf("none in %s", log))
	return 0
}

type pod struct {
	sandbox, container, log string
	begin                   int64
}

func start(client cri.RuntimeServiceClient, name string) pod {
	logs := filepath.Join(*dir, name)
	if err := os.MkdirAll(logs, 0o755); err != nil {
		fail("mkdir", err)
	}
	seccomp := &cri.SecurityProfile{ProfileType: cri.SecurityProfile_RuntimeDefault}
	config := &cri.PodSandboxConfig{
		Metadata:     &cri.PodSandboxMetadata{Name: name, Namespace: "bench", Uid: name},
		Hostname:     "bench",
		LogDirectory: logs,
		DnsConfig:    &cri.DNSConfig{},
		Linux: &cri.LinuxPodSandboxConfig{
			SecurityContext: &cri.LinuxSandboxSecurityContext{Seccomp: seccomp, NamespaceOptions: &cri.NamespaceOption{Pid: cri.NamespaceMode_CONTAINER}},
		},
	}
	made := pod{log: filepath.Join(logs, "one.log"), begin: monotonic()}
	made.sandbox = timed("RunPodSandbox", func(ctx context.Context) (*cri.RunPodSandboxResponse, error) {
		return client.RunPodSandbox(ctx, &cri.RunPodSandboxRequest{Config: config})
	}).PodSandboxId
	request := &cri.CreateContainerRequest{
		PodSandboxId: made.sandbox, SandboxConfig: config,
		Config: &cri.ContainerConfig{
			Metadata: &cri.ContainerMetadata{Name: "one"}, Image: &cri.ImageSpec{Image: *image}, Command: []string{"/program", "stamp"}, LogPath: "one.log",
			Linux: &cri.LinuxContainerConfig{
				Resources:       &cri.LinuxContainerResources{CpuShares: 2},
				SecurityContext: &cri.LinuxContainerSecurityContext{Seccomp: seccomp, NamespaceOptions: &cri.NamespaceOption{Pid: cri.NamespaceMode_CONTAINER}},
			},
		},
	}
	made.container = timed("CreateContainer", func(ctx context.Context) (*cri.CreateContainerResponse, error) {
		return client.CreateContainer(ctx, request)
	}).ContainerId
	timed("StartContainer", func(ctx context.Context) (*cri.StartContainerResponse, error) {
		return client.StartContainer(ctx, &cri.StartContainerRequest{ContainerId: made.container})
	})
	return made
}

func life(client cri.RuntimeServiceClient, name string) {
	made := start(client, name)
	took["running"] = append(took["running"], stamp(made.log)-made.begin)
	executed := timed("ExecSync", func(ctx context.Context) (*cri.ExecSyncResponse, error) {
		return client.ExecSync(ctx, &cri.ExecSyncRequest{ContainerId: made.container, Cmd: []string{"/program", "once"}, Timeout: 30})
	})
	if executed.ExitCode != 0 || !strings.HasPrefix(string(executed.Stdout), "stamp ") {
		fail("ExecSync", fmt.Errorf("exit code %d, %q", executed.ExitCode, executed.Stdout))
	}
	timed("StopContainer", func(ctx context.Context) (*cri.StopContainerResponse, error) {
		return client.StopContainer(ctx, &cri.StopContainerRequest{ContainerId: made.container, Timeout: 10})
	})
	timed("RemoveContainer", func(ctx context.Context) (*cri.RemoveContainerResponse, error) {
		return client.RemoveContainer(ctx, &cri.RemoveContainerRequest{ContainerId: made.container})
	})
	end(client, made.sandbox)
}

func end(client cri.RuntimeServiceClient, sandbox string) {
	timed("StopPodSandbox", func(ctx context.Context) (*cri.StopPodSandboxResponse, error) {
		return client.StopPodSandbox(ctx, &cri.StopPodSandboxRequest{PodSandboxId: sandbox})
	})
	timed("RemovePodSandbox", func(ctx context.Context) (*cri.RemovePodSandboxResponse, error) {
		return client.RemovePodSandbox(ctx, &cri.RemovePodSandboxRequest{PodSandboxId: sandbox})
	})
}

func connect(endpoint string) cri.RuntimeServiceClient {
	connection, err := grpc.NewClient(endpoint, grpc.WithTransportCredentials(insecure.NewCredentials()), grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(16<<20)))
	if err != nil {
		fail(endpoint, err)
	}
	return cri.NewRuntimeServiceClient(connection)
}

func main() {
	flag.Parse()
	client := connect(*endpoint)
	// The connection is made by the first call.
	timed("Version", func(ctx context.Context) (*cri.VersionResponse, error) {
		return client.Version(ctx, &cri.VersionRequest{}, grpc.WaitForReady(true))
	})
	for n := range *lives {
		life(client, fmt.Sprintf("%s-%d", *prefix, n))
	}
	for n := range *keep {
		start(client, fmt.Sprintf("%s-%d", *prefix, n))
	}
	if *list > 0 {
		floor := connect(answering(timeList(client, "first")))
		timeList(floor, "first")
		for range *list {
			timeList(client, "ListContainers")
			timeList(floor, "answered")
		}
	}
	if *remove {
		pods := timed("ListPodSandbox", func(ctx context.Context) (*cri.ListPodSandboxResponse, error) {
			return client.ListPodSandbox(ctx, &cri.ListPodSandboxRequest{})
		})
		for _, pod := range pods.Items {
			end(client, pod.Id)
		}
	}
	if err := json.NewEncoder(os.Stdout).Encode(took); err != nil {
		fail("the answer", err)
	}
}

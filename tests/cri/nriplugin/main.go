// A plugin for tests/nri.rs, made with NRI's own stub. What it does is told by a JSON document in its first argument; what it
// is told, it writes to standard output, a JSON document a line.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"strings"
	"sync"
	"time"

	"github.com/containerd/nri/pkg/api"
	"github.com/containerd/nri/pkg/stub"
)

type script struct {
	Socket string `json:"socket"`
	Index  string `json:"index"`
	Name   string `json:"name"`
	// The events to ask for; all if empty.
	Events string `json:"events"`
	// Event → what to fail with.
	Fail map[string]string `json:"fail"`
	// The beginning of the names of pods that RunPodSandbox refuses.
	Refuse string `json:"refuse"`
	// Event → milliseconds to take.
	Delay map[string]int `json:"delay"`
	// The answer to CreateContainer.
	Adjust *api.ContainerAdjustment `json:"adjust"`
	Update []*api.ContainerUpdate   `json:"update"`
	// Sent unsolicited after Synchronize.
	Unsolicited []*api.ContainerUpdate `json:"unsolicited"`
	// What to reject adjustments with, as a validator.
	Reject        string `json:"reject"`
	FailRequest   bool   `json:"failRequest"`
	KeepConnected bool   `json:"keepConnected"`
}

type plugin struct {
	sync.Mutex
	script
	stub stub.Stub
}

func (p *plugin) say(event string, fields map[string]any) error {
	if fields == nil {
		fields = map[string]any{}
	}
	fields["event"] = event
	line, err := json.Marshal(fields)
	if err != nil {
		panic(err)
	}
	p.Lock()
	fmt.Println(string(line))
	p.Unlock()
	if delay := p.Delay[event]; delay != 0 {
		time.Sleep(time.Duration(delay) * time.Millisecond)
	}
	if failure := p.Fail[event]; failure != "" {
		return errors.New(failure)
	}
	return nil
}

func (p *plugin) pod(event string, pod *api.PodSandbox) error {
	return p.say(event, map[string]any{"pod": pod.GetId(), "name": pod.GetName(), "uid": pod.GetUid()})
}

func (p *plugin) container(event string, pod *api.PodSandbox, c *api.Container) error {
	return p.say(event, map[string]any{
		"pod": pod.GetId(), "container": c.GetId(), "name": c.GetName(), "state": c.GetState().String(),
		"env": c.GetEnv(), "args": c.GetArgs(), "annotations": c.GetAnnotations(),
	})
}

func (p *plugin) Configure(_ context.Context, config, runtime, version string) (api.EventMask, error) {
	err := p.say("Configure", map[string]any{"config": config, "runtime": runtime, "nri": p.stub.RuntimeNRIVersion(),
		"registrationTimeout": p.stub.RegistrationTimeout().Milliseconds(), "requestTimeout": p.stub.RequestTimeout().Milliseconds()})
	if p.Events == "" {
		return 0, err
	}
	return api.MustParseEventMask(p.Events), err
}

func (p *plugin) Synchronize(_ context.Context, pods []*api.PodSandbox, containers []*api.Container) ([]*api.ContainerUpdate, error) {
	last := ""
	ids := []string{}
	for _, pod := range pods {
		ids = append(ids, pod.GetId())
	}
	for _, c := range containers {
		last = c.GetId()
		ids = append(ids, last)
	}
	err := p.say("Synchronize", map[string]any{"pods": len(pods), "containers": len(containers), "last": last, "ids": ids})
	if len(p.Unsolicited) > 0 {
		go func() {
			failed, err := p.stub.UpdateContainers(p.Unsolicited)
			ids := []string{}
			for _, f := range failed {
				ids = append(ids, f.GetContainerId())
			}
			p.say("Updated", map[string]any{"failed": ids, "error": fmt.Sprint(err)})
		}()
	}
	return nil, err
}

func (p *plugin) Shutdown(context.Context) { p.say("Shutdown", nil) }

func (p *plugin) RunPodSandbox(_ context.Context, pod *api.PodSandbox) error {
	err := p.pod("RunPodSandbox", pod)
	if p.Refuse != "" && strings.HasPrefix(pod.GetName(), p.Refuse) {
		return errors.New("refused")
	}
	return err
}

func (p *plugin) UpdatePodSandbox(_ context.Context, pod *api.PodSandbox, _, _ *api.LinuxResources) error {
	return p.pod("UpdatePodSandbox", pod)
}

func (p *plugin) PostUpdatePodSandbox(_ context.Context, pod *api.PodSandbox) error {
	return p.pod("PostUpdatePodSandbox", pod)
}

func (p *plugin) StopPodSandbox(_ context.Context, pod *api.PodSandbox) error {
	return p.pod("StopPodSandbox", pod)
}

func (p *plugin) RemovePodSandbox(_ context.Context, pod *api.PodSandbox) error {
	return p.pod("RemovePodSandbox", pod)
}

func (p *plugin) CreateContainer(_ context.Context, pod *api.PodSandbox, c *api.Container) (*api.ContainerAdjustment, []*api.ContainerUpdate, error) {
	err := p.container("CreateContainer", pod, c)
	return p.Adjust, p.Update, err
}

func (p *plugin) PostCreateContainer(_ context.Context, pod *api.PodSandbox, c *api.Container) error {
	return p.container("PostCreateContainer", pod, c)
}

func (p *plugin) StartContainer(_ context.Context, pod *api.PodSandbox, c *api.Container) error {
	return p.container("StartContainer", pod, c)
}

func (p *plugin) PostStartContainer(_ context.Context, pod *api.PodSandbox, c *api.Container) error {
	return p.container("PostStartContainer", pod, c)
}

func (p *plugin) UpdateContainer(_ context.Context, pod *api.PodSandbox, c *api.Container, _ *api.LinuxResources) ([]*api.ContainerUpdate, error) {
	err := p.container("UpdateContainer", pod, c)
	return p.Update, err
}

func (p *plugin) PostUpdateContainer(_ context.Context, pod *api.PodSandbox, c *api.Container) error {
	return p.container("PostUpdateContainer", pod, c)
}

func (p *plugin) StopContainer(_ context.Context, pod *api.PodSandbox, c *api.Container) ([]*api.ContainerUpdate, error) {
	err := p.container("StopContainer", pod, c)
	return p.Update, err
}

func (p *plugin) RemoveContainer(_ context.Context, pod *api.PodSandbox, c *api.Container) error {
	return p.container("RemoveContainer", pod, c)
}

func (p *plugin) ValidateContainerAdjustment(_ context.Context, request *api.ValidateContainerAdjustmentRequest) error {
	names := []string{}
	for _, instance := range request.GetPlugins() {
		names = append(names, instance.GetIndex()+"-"+instance.GetName())
	}
	owner, _ := request.GetOwners().EnvOwner(request.GetContainer().GetId(), "COLOUR")
	err := p.say("ValidateContainerAdjustment", map[string]any{"plugins": names, "owner": owner})
	if p.Reject != "" {
		return errors.New(p.Reject)
	}
	return err
}

func main() {
	p := &plugin{}
	if err := json.Unmarshal([]byte(os.Args[1]), &p.script); err != nil {
		panic(err)
	}
	options := []stub.Option{
		stub.WithFailurePolicy(&api.FailurePolicy{FailRequest: p.FailRequest, KeepConnected: p.KeepConnected}),
	}
	// A plugin that the runtime starts has its name and its connection from it.
	if p.Name != "" {
		options = append(options, stub.WithPluginName(p.Name), stub.WithPluginIdx(p.Index), stub.WithSocketPath(p.Socket))
	}
	var err error
	if p.stub, err = stub.New(p, options...); err != nil {
		panic(err)
	}
	err = p.stub.Run(context.Background())
	p.say("Ended", map[string]any{"error": fmt.Sprint(err)})
}

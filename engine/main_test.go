package engine

import (
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"
)

// TestMain looks for what the tests left behind: goroutines and descriptors.
func TestMain(m *testing.M) {
	if order := strings.SplitN(os.Getenv(crowdEnv), " ", 3); len(order) == 3 {
		exitWith(beCrowd(order))
	}
	before := countFiles()
	code := m.Run()
	if code == 0 {
		if err := leftBehind(before); err != nil {
			exitWith(err)
		}
	}
	os.Exit(code)
}

func exitWith(err error) {
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	os.Exit(0)
}

// ownFiles are the descriptors that netpoll's poller and the runtime's keep once
// they were used: an epoll and an eventfd each.
const ownFiles = 4

func leftBehind(before int) error {
	err := goleak.Find(
		goleak.IgnoreAnyFunction("github.com/cloudwego/netpoll.(*defaultPoll).Wait"), // lives as long as the process
		goleak.IgnoreAnyFunction("github.com/bytedance/gopkg/util/gopool.(*worker).run.func1"),
		goleak.IgnoreAnyFunction("runtime.runCleanups"), // gives segments back of logs that nobody has any more
	)
	if err != nil {
		return err
	}
	// Other goroutines, and netpoll, may still be closing some.
	look, late := time.NewTicker(pollEvery), time.NewTimer(waitLong)
	defer look.Stop()
	defer late.Stop()
	for {
		after := countFiles()
		if after <= before+ownFiles {
			return nil
		}
		select {
		case <-look.C:
		case <-late.C:
			return fmt.Errorf("%d descriptors more than at the start", after-before)
		}
	}
}

func countFiles() int {
	files, _ := os.ReadDir("/proc/self/fd")
	return len(files)
}

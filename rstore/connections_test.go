package rstore

import (
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"ssed/sseproto"
)

// connections is how many of the store's connections Redis has.
func (w *world) connections() int {
	list, err := w.do("CLIENT", "LIST").ToString()
	require.NoError(w.t, err)
	return strings.Count(list, " name=store ")
}

// Each connection has two goroutines. They are made when they are first needed, so a process
// has more of both after some resumes than at its start; but not more and more.
func TestReadsOfTheHistoryShareFourConnections(t *testing.T) {
	w, log := newWorldAndLog(t)
	log.commit(w.id(2, 0), w.burst(1, 100, 50)...)
	cfg := w.config("a")
	cfg.Client.ClientName, cfg.Client.PipelineMultiplex = "store", 2 // four, as with four processors or more
	s := w.store(cfg, log)
	stop := w.start(s)
	w.waitMark(s, w.id(2, 0))
	stop()
	require.Equal(t, 1, w.connections(), "the writer's")
	for range 10 {
		var reads sync.WaitGroup
		for i := range 50 {
			reads.Go(func() {
				if err := s.Range(t.Context(), []string{fmt.Sprint("ch", i)}, sseproto.ID{}, w.id(2, 0), newRecorder()); err != nil {
					t.Error(err)
				}
			})
		}
		reads.Wait()
	}
	require.Equal(t, 1+4, w.connections())
	s.Close()
	require.Eventually(t, func() bool { return w.connections() == 0 }, time.Minute, 2*time.Millisecond, "all end with the store")
}

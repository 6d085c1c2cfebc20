package engine

import (
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"ssed/engine/internal/front"
	"ssed/sseproto"
)

// watch lets the kernel tell the shard what happened, and does a pass.
func (h byHand) watch() { h.poller.wait(0); h.shard.pass(time.Now()) }

func TestEventOfAFormerOwnerDoesNotTouchTheSlot(t *testing.T) {
	h := shardByHand(t, nil)
	fd, conn := socketPair(t)
	other, err := syscall.Dup(fd) // keeps the description, and so its place in the epoll
	require.NoError(t, err)
	defer func() { _ = syscall.Close(other) }()
	h.engine.conns.Add(1)
	h.engine.attach(&front.Stream{FD: fd, Channels: []string{"a"}})
	h.watch()
	h.closeSlot(1, CloseExpired)
	c := h.arrive(t, resumePoint{}, "a")
	h.watch()
	require.EqualValues(t, 2, h.slots.used, "the slot changed hands")
	require.NoError(t, conn.Close())
	h.watch()
	h.f.publish("a", "x")
	h.watch()
	require.Equal(t, "x", c.next(1)[0].data)
}

func TestWaitOfAFormerOwnerDoesNotMoveTheSlot(t *testing.T) {
	h := shardByHand(t, nil)
	c := h.arrive(t, after(sseproto.ID{Ms: 1000, Seq: 3}), "a")
	h.f.publish("a", "one")
	h.watch()
	require.NoError(t, c.conn.Close())
	h.poller.wait(0)
	h.closeSlot(1, CloseClient)
	next := join(t, h.engine, resumePoint{}, "b")
	h.f.publish("b", "two")
	h.f.publish("a", "three")
	h.pass()
	require.EqualValues(t, 2, h.slots.used, "the slot changed hands")
	require.Equal(t, "two", next.next(1)[0].data)
}

func TestHistoryOfAFormerOwnerIsNotWritten(t *testing.T) {
	h := shardByHand(t, nil)
	h.arrive(t, resumePoint{}, "a")
	former := ref{1, h.slots.at(1).gen}
	h.closeSlot(1, CloseClient)
	next := h.arrive(t, resumePoint{}, "b")
	require.EqualValues(t, 2, h.slots.used, "the slot changed hands")
	p := newPage([]string{"a"}, sseproto.ID{Ms: 800})
	p.Event(0, sseproto.ID{Ms: 900, Seq: 1}, sseproto.Message{Data: "not for b"})
	r := &replay{page: p, upTo: sseproto.ID{Ms: 1000}, taken: make(chan struct{})}
	r.arrange()
	r.refs.Store(1)
	h.post(command{page: r, to: former}) // it was on its way when the slot was closed
	h.pass()
	<-r.taken
	h.f.publish("b", "x")
	h.pass()
	require.Equal(t, []string{"x"}, datas(next.next(1)))
}

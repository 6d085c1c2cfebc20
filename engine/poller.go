package engine

// readiness is one event on a parked descriptor, as told by the kernel.
type readiness struct {
	slot, gen            uint32
	readable, writable   bool
	peerClosed, hadError bool
}

// wakeSlot marks the wake-up descriptor among the events; no slot has it.
const wakeSlot = ^uint32(0)

package engine

import "math/bits"

// chunkSize records are allocated together, in the tables whose memory is given back: of
// channels, of their members in a shard, of subscriptions. One that stays keeps a chunk:
// 20, 6 and 10 KiB, which are sizes that the allocator has.
const chunkSize = 512

// indexes gives out small numbers, the lowest free one first, so that the last chunks of
// a table become empty when there was a crowd.
type indexes struct {
	chunks []chunkUse
	roomy  []uint64 // bit n%64 of word n/64: chunk n has a free index
	low    int      // no word before has a bit
}

type chunkUse struct {
	used [chunkSize / 64]uint64
	n    int
}

// take returns a free index. Fresh: it is the only one of its chunk.
func (x *indexes) take() (index uint32, fresh bool) {
	for x.low < len(x.roomy) && x.roomy[x.low] == 0 {
		x.low++
	}
	if x.low == len(x.roomy) {
		x.roomy = append(x.roomy, ^uint64(0))
	}
	chunk := 64*x.low + bits.TrailingZeros64(x.roomy[x.low])
	for len(x.chunks) <= chunk {
		x.chunks = append(x.chunks, chunkUse{})
	}
	c := &x.chunks[chunk]
	for k := range c.used {
		if free := ^c.used[k]; free != 0 {
			bit := bits.TrailingZeros64(free)
			c.used[k] |= 1 << bit
			index = uint32(chunk*chunkSize + k*64 + bit)
			break
		}
	}
	if c.n++; c.n == chunkSize {
		x.roomy[x.low] &^= 1 << (chunk % 64)
	}
	return index, c.n == 1
}

// put gives an index back. Empty: none of its chunk is in use any more.
func (x *indexes) put(index uint32) (empty bool) {
	chunk := int(index / chunkSize)
	c := &x.chunks[chunk]
	c.used[index%chunkSize/64] &^= 1 << (index % 64)
	c.n--
	x.roomy[chunk/64] |= 1 << (chunk % 64)
	x.low = min(x.low, chunk/64)
	return c.n == 0
}

// end is beyond all indexes in use.
func (x *indexes) end() uint32 { return uint32(len(x.chunks) * chunkSize) }

// arena is a table of T for one goroutine. Index 0 is never given out. Records do not
// move; one that is given back is gone.
type arena[T any] struct {
	indexes
	chunks []*[chunkSize]T
}

func (a *arena[T]) at(i uint32) *T { return &a.chunks[i/chunkSize][i%chunkSize] }

// take returns a zero record.
func (a *arena[T]) take() (uint32, *T) {
	i, fresh := a.indexes.take()
	if fresh {
		a.setChunk(i/chunkSize, new([chunkSize]T))
	}
	if i == 0 { // for good
		return a.take()
	}
	return i, a.at(i)
}

func (a *arena[T]) setChunk(n uint32, chunk *[chunkSize]T) {
	for uint32(len(a.chunks)) <= n {
		a.chunks = append(a.chunks, nil)
	}
	a.chunks[n] = chunk
}

func (a *arena[T]) put(i uint32) {
	var zero T
	*a.at(i) = zero
	if a.indexes.put(i) {
		a.chunks[i/chunkSize] = nil
	}
}

package engine

// keptItems is the length up to which an empty queue keeps its memory.
const keptItems = 4096

// queue is a first-in, first-out list.
type queue[T any] struct {
	items []T
	head  int
}

func (q *queue[T]) len() int { return len(q.items) - q.head }

func (q *queue[T]) empty() bool { return q.head == len(q.items) }

func (q *queue[T]) push(x T) {
	if q.head > 64 && q.head*2 > len(q.items) {
		n := copy(q.items, q.items[q.head:])
		clear(q.items[n:])
		q.items, q.head = q.items[:n], 0
	}
	q.items = append(q.items, x)
}

// first is the one that pop would return.
func (q *queue[T]) first() T { return q.items[q.head] }

// at is the one that n pops would come before; valid until the next push or pop.
func (q *queue[T]) at(n int) *T { return &q.items[q.head+n] }

func (q *queue[T]) pop() T {
	var zero T
	x := q.items[q.head]
	q.items[q.head] = zero
	q.head++
	if q.empty() {
		q.items, q.head = q.items[:0], 0
		if cap(q.items) > keptItems {
			q.items = nil
		}
	}
	return x
}

package clusternodes

import (
	"testing"

	"github.com/stretchr/testify/require"
)

func TestParse(t *testing.T) {
	f := func(line string, want ...Node) {
		t.Helper()
		require.Equal(t, want, Parse(line+"\n"))
	}
	f("aa 10.0.0.1:7000@17000 myself,master - 0 0 3 connected 0-5460 [5->-bb]",
		Node{ID: "aa", Addr: "10.0.0.1:7000", IsMyself: true, IsPrimary: true, Epoch: 3, Slots: []Range{{0, 5460}}})
	f("bb 10.0.0.2:7000@17000,b.example slave,fail aa 1 2 3 disconnected",
		Node{ID: "bb", Addr: "10.0.0.2:7000", Host: "b.example:7000", HasFailed: true, Primary: "aa", Epoch: 3})
	f("cc 10.0.0.3:7000@17000,,tls-port=0,shard-id=x master,fail? - 0 0 12 connected 5 7-9",
		Node{ID: "cc", Addr: "10.0.0.3:7000", IsPrimary: true, HasFailed: true, Epoch: 12, Slots: []Range{{5, 5}, {7, 9}}})
	f("dd ::1:7000@17000 master - 0 0 1 connected", Node{ID: "dd", Addr: "[::1]:7000", IsPrimary: true, Epoch: 1})
	f("ee :7000@17000 myself,master - 0 0 0 connected", Node{ID: "ee", IsMyself: true, IsPrimary: true})
	f("ff noaddr - 0")
	f("")
}

func TestHas(t *testing.T) {
	n := Node{Slots: []Range{{5, 5}, {7, 9}}}
	for slot, want := range map[int]bool{4: false, 5: true, 6: false, 7: true, 9: true, 10: false} {
		require.Equal(t, want, n.Has(slot), slot)
	}
}

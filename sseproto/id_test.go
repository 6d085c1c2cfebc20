package sseproto

import (
	"math"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestParseIDReadsWhatRedisReads(t *testing.T) {
	f := func(text string, want ID) {
		t.Helper()
		got, err := ParseID(text)
		require.NoError(t, err, text)
		require.Equal(t, want, got, text)
		fromBytes, err := ParseID([]byte(text))
		require.NoError(t, err, text)
		require.Equal(t, want, fromBytes, text)
	}
	f("0", ID{})
	f("0-0", ID{})
	f("7", ID{Ms: 7})
	f("1795431293042-7", ID{Ms: 1795431293042, Seq: 7})
	f("007-0012", ID{Ms: 7, Seq: 12})
	f("18446744073709551615-18446744073709551615", MaxID)
}

func TestParseIDRefusesEverythingElse(t *testing.T) {
	for _, text := range []string{
		"", "-", "1-", "-1", "--", "1--2", "1-2-3", "+1", "1-+2", " 1", "1 ", "1- 2", "0x1", "1e3", "$", "+", "(1-0",
		"abc", "1-a", "\xff\xfe", "1\x00", "１", "18446744073709551616", "18446744073709551616-0", "0-18446744073709551616",
		"99999999999999999999-0", "000000000000000000000000000000000000000000001",
	} {
		_, err := ParseID(text)
		require.ErrorIs(t, err, ErrBadID, "%q", text)
	}
}

func TestIDsAscendByTimeThenNumber(t *testing.T) {
	ascending := []ID{{}, {0, 1}, {0, math.MaxUint64}, {1, 0}, {1, 1}, {2, 0}, {math.MaxUint64, 0}, MaxID}
	for i, a := range ascending {
		require.Equal(t, i == 0, a.IsZero())
		for j, b := range ascending {
			want := 0
			if i < j {
				want = -1
			} else if i > j {
				want = 1
			}
			require.Equal(t, want, a.Compare(b), "%v %v", a, b)
			require.Equal(t, i < j, a.Less(b), "%v %v", a, b)
		}
	}
}

func FuzzID(f *testing.F) {
	for _, s := range []string{"0-0", "1795431293042-7", "5", "1-", "-1", "18446744073709551616-0", "007-1"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, text string) {
		id, err := ParseID(text)
		if err != nil {
			require.Zero(t, id)
			return
		}
		again, err := ParseID(id.String())
		require.NoError(t, err)
		require.Equal(t, id, again)
		require.LessOrEqual(t, len(id.String()), maxIDLen)
	})
}

package main

import (
	"testing"

	"github.com/stretchr/testify/require"

	"ssed/sseproto"
)

func TestIDsOfTheAPINameThePartitionWhereThereAreSeveral(t *testing.T) {
	id := sseproto.ID{Ms: 1795431293042, Seq: 7}
	require.Equal(t, "1795431293042-7", eventText("user123", id, 1))
	require.Equal(t, "1795431293042-7.1", eventText("user123", id, 3))
	require.Equal(t, "1795431293042-7.2", eventText("news", id, 3))
	require.Empty(t, eventText("news", sseproto.ID{}, 3))
}

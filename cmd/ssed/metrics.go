package main

import (
	"maps"
	"net/http"
	"runtime"
	"slices"
	"strconv"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"ssed"
	"ssed/engine"
	"ssed/internal/admin"
	"ssed/internal/auth"
	"ssed/internal/fleet"
	"ssed/rstore"
	"ssed/rsub"
)

// metricsHandler serves GET /metrics. Every number comes from a Stats snapshot
// that is taken for the scrape; nothing is counted here.
func metricsHandler(s *server) http.Handler {
	registry := prometheus.NewRegistry()
	registry.MustRegister(
		collectors.NewGoCollector(),
		collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}),
		collector{s},
	)
	return promhttp.HandlerFor(registry, promhttp.HandlerOpts{})
}

// collector is unchecked (it describes nothing beforehand), so that each metric
// has its name and help at the one place where its value is taken.
type collector struct{ s *server }

// Describe implements prometheus.Collector.
func (collector) Describe(chan<- *prometheus.Desc) {}

// Collect implements prometheus.Collector.
func (c collector) Collect(ch chan<- prometheus.Metric) {
	out := scrape(ch)
	out.gauge("ssed_build_info", "Always 1; the labels tell the build.", 1, "version", version, "go", runtime.Version())
	ready, _ := c.s.gateway.Ready()
	out.gauge("ssed_ready", "1 while GET /ready answers 200.", oneIf(ready))
	stats := c.s.Engine.Stats()
	out.streams(&stats)
	out.gauge("ssed_connections_limit", "Most open client connections (--max-connections).", float64(c.s.Engine.Config().MaxConnections))
	out.front(&stats.Front)
	access := c.s.access.Stats()
	out.access(&access)
	out.log(&stats.Log)
	if c.s.Feeds != nil {
		feed := c.s.FeedStats()
		out.feed(&feed)
		out.gauge("ssed_feed_leading", "1 while this instance sends the ticks; with --partitions the number of partitions whose ticks it sends.", count(c.s.Feeds, (*rsub.Feed).Leads))
		out.gauge("ssed_redis_up", "1 while messages from Redis are received and numbered.", oneIf(c.s.gateway.Up()))
	}
	counts := c.s.admin.api.Counts()
	out.admin(&counts)
	if c.s.publisher != nil {
		counts, tokens := c.s.publisher.api.Counts(), c.s.access.Publishers().Stats()
		out.publisher(&counts, &tokens)
	}
	if c.s.Fleet != nil {
		fleet := c.s.Fleet.Stats()
		out.fleet(&fleet)
	}
	if c.s.Stores != nil {
		store := c.s.StoreStats()
		out.history(&store)
		out.gauge("ssed_history_writer", "1 while this instance writes the history; with --partitions the number of partitions whose history it writes.", count(c.s.Stores, (*rstore.Store).Writes))
		out.watermarkLag(c.s.gateway.Partitions())
	}
}

// scrape is where the metrics of one collection go. Labels are pairs of name and
// value.
type scrape chan<- prometheus.Metric

func (ch scrape) counter(name, help string, value uint64, labels ...string) {
	ch.put(prometheus.CounterValue, name, help, float64(value), labels)
}

func (ch scrape) gauge(name, help string, value float64, labels ...string) {
	ch.put(prometheus.GaugeValue, name, help, value, labels)
}

func (ch scrape) put(kind prometheus.ValueType, name, help string, value float64, labels []string) {
	var names, values []string
	for i := 0; i < len(labels); i += 2 {
		names, values = append(names, labels[i]), append(values, labels[i+1])
	}
	ch <- prometheus.MustNewConstMetric(prometheus.NewDesc(name, help, names, nil), kind, value, values...)
}

// count is how many of the parts it is true of.
func count[T any](parts []T, is func(T) bool) (n float64) {
	for _, part := range parts {
		n += oneIf(is(part))
	}
	return n
}

func oneIf(is bool) float64 {
	if is {
		return 1
	}
	return 0
}

func (ch scrape) publisher(c *admin.Counts, tokens *auth.Stats) {
	ch.gauge("ssed_publish_connections", "Open connections of the listener at --publish-listen.", float64(c.Connections))
	ch.counter("ssed_publish_connections_refused_total", "Connections to --publish-listen that were closed at once, because too many are open.", c.ConnectionsRefused)
	ch.counter("ssed_publish_granted_total", "Requests to --publish-listen whose token allows them to publish.", tokens.Granted)
	for _, reason := range admin.DenyReasons() {
		ch.counter("ssed_publish_denied_total", "Requests to --publish-listen, and messages of a batch, that were refused for lack of a right, by reason.", c.Denied[reason], "reason", reason.String())
	}
	ch.counter("ssed_publish_bodies_refused_total", "Requests to --publish-listen with a body over 64 KiB that were refused, because eight were in memory.", c.BodiesRefused)
}

func (ch scrape) admin(c *admin.Counts) {
	ch.gauge("ssed_admin_connections", "Open connections of the admin listener.", float64(c.Connections))
	ch.counter("ssed_admin_connections_refused_total", "Connections to the admin listener that were closed at once, because too many are open.", c.ConnectionsRefused)
	for _, reason := range admin.DenyReasons() {
		ch.counter("ssed_admin_denied_total", "Requests to the admin listener that were refused for lack of a right, by reason.", c.Denied[reason], "reason", reason.String())
	}
	ch.gauge("ssed_admin_bodies", "Request bodies over 64 KiB in memory, until they are published.", float64(c.Bodies))
	ch.counter("ssed_admin_bodies_refused_total", "Requests to the admin listener with a body over 64 KiB that were refused, because eight were in memory.", c.BodiesRefused)
	ch.gauge("ssed_admin_live_streams", "Open streams of GET /api/live.", float64(c.Live))
	ch.counter("ssed_admin_live_refused_total", "Streams of GET /api/live that were refused, because too many are open.", c.LiveRefused)
}

func (ch scrape) streams(s *engine.Stats) {
	ch.gauge("ssed_streams", "Open event streams.", float64(s.Streams))
	ch.gauge("ssed_connections", "Open client connections, handshakes included.", float64(s.Connections))
	ch.gauge("ssed_channels", "Channels with a subscriber or a message in memory.", float64(s.Channels))
	ch.counter("ssed_stream_messages_total", "Messages written to clients, counted for each client.", s.Delivered)
	ch.counter("ssed_stream_sent_bytes_total", "Bytes written to streams.", s.SentBytes)
	ch.counter("ssed_stream_writes_total", "Write system calls on streams.", s.Writes)
	ch.counter("ssed_stream_blocked_writes_total", "Writes that found the socket full.", s.Blocked)
	ch.counter("ssed_stream_heartbeats_total", "Heartbeat lines written.", s.Heartbeats)
	ch.counter("ssed_stream_attached_total", "Streams that began.", s.Attached)
	ch.counter("ssed_stream_resumed_total", "Streams that began with Last-Event-ID, since or last, by where their messages came from.", s.ResumedRing, "from", "memory")
	ch.counter("ssed_stream_resumed_total", "Streams that began with Last-Event-ID, since or last, by where their messages came from.", s.ResumedHistory, "from", "history")
	for reason, n := range s.Gaps {
		ch.counter("ssed_stream_gaps_total", "Gap events sent when a stream began, by reason.", n, "reason", reason)
	}
	ch.gauge("ssed_slow_streams", "Streams whose socket is full now.", float64(s.Slow))
	ch.histogram("ssed_delivery_lag_seconds", "Time from a message's arrival in memory until it is written to a socket that has room, for each delivery.",
		s.DeliveryLag.SumSeconds, s.DeliveryLag.Counts, seconds(s.DeliveryLag.Bounds))
	for i, busy := range s.ShardBusy {
		ch.put(prometheus.CounterValue, "ssed_shard_busy_seconds_total", "Time that an event loop worked.", busy.Seconds(), []string{"shard", strconv.Itoa(i)})
	}
	ch.counter("ssed_stream_reattached_total", "Streams whose event loop fell behind, and which went on from the history.", s.Reattached)
	for _, reason := range engine.CloseReasons() {
		ch.counter("ssed_stream_closed_total", "Streams that ended, by reason.", s.Closed[reason], "reason", reason.String())
	}
}

func (ch scrape) front(s *engine.FrontStats) {
	ch.gauge("ssed_handshakes", "Connections whose request is not answered yet.", float64(s.Handshakes))
	ch.gauge("ssed_subjects", "Subjects that have a stream.", float64(s.Subjects))
	ch.gauge("ssed_revoked", "Subjects and tokens that an operator keeps out (DELETE /api/connections with for).", float64(s.Revoked))
	ch.gauge("ssed_client_addresses", "Client addresses with a connection, or with a limit to remember.", float64(s.Addresses))
	ch.gauge("ssed_authorizing", "Connections that wait to be authorised.", float64(s.Deciding))
	ch.counter("ssed_accepted_total", "Connections accepted.", s.Accepted)
	ch.counter("ssed_accept_calls_total", "Calls of accept(2).", s.Accepts)
	for i, n := range s.Answered[1:] {
		ch.counter("ssed_http_answers_total", "Answers other than streams, by class of their status.", n, "code", string(rune('1'+i))+"xx")
	}
	for _, reason := range engine.RefuseReasons() {
		ch.counter("ssed_refused_total", "Connections and requests not served, by reason.", s.Refused[reason], "reason", reason.String())
	}
}

func (ch scrape) access(s *auth.Stats) {
	ch.counter("ssed_auth_granted_total", "Requests for streams that were authorised.", s.Granted)
	ch.counter("ssed_auth_cached_total", "Requests for streams that a remembered answer of the service decided (--auth-cache-ttl).", s.Cached)
	for _, reason := range auth.Reasons() {
		ch.counter("ssed_auth_refused_total", "Requests for streams that were not authorised, by reason.", s.Refused[reason], "reason", reason.String())
	}
	ch.counter("ssed_auth_requests_total", "Requests to the service at --auth-url.", s.Asked)
	ch.counter("ssed_auth_key_fetches_total", "Attempts to fetch the key set.", s.KeyFetches)
	ch.counter("ssed_auth_key_failures_total", "Attempts to fetch the key set that failed.", s.KeyFailures)
}

func (ch scrape) log(s *engine.LogStats) {
	ch.counter("ssed_log_messages_total", "Messages taken into memory.", s.Appended)
	ch.counter("ssed_log_frame_bytes_total", "Bytes of the messages taken into memory, as they are sent.", s.AppendedBytes)
	ch.counter("ssed_log_envelopes_total", "Messages in an envelope (--envelope json). read: taken apart. refused: a value is not allowed, so it was delivered as text.", s.Unwrapped, "outcome", "read")
	ch.counter("ssed_log_envelopes_total", "Messages in an envelope (--envelope json). read: taken apart. refused: a value is not allowed, so it was delivered as text.", s.Refused, "outcome", "refused")
	ch.counter("ssed_log_evicted_total", "Messages that left memory.", s.Evicted)
	ch.counter("ssed_log_spans_total", "Spans, which are runs of messages without a hole. One begins at start, and one after each resync.", s.Spans)
	ch.counter("ssed_log_filled_total", "Messages backfilled from the history after a lost connection to Redis.", s.Backfilled)
	for reason, n := range s.Gaps {
		ch.counter("ssed_log_gaps_total", "Gap events for open streams, by reason. Each may go to many streams.", n, "reason", reason)
	}
	ch.counter("ssed_log_abandoned_total", "Backfills that were given up: the history was too slow, or too much was lost.", s.Abandoned)
	ch.gauge("ssed_log_bytes", "Memory that recent messages take.", float64(s.RingBytes))
	ch.gauge("ssed_log_limit_bytes", "Most memory for recent messages (--ring-bytes).", float64(s.LimitBytes))
	ch.gauge("ssed_log_oldest_seconds", "Age of the oldest message in memory; 0 when there is none.", s.Oldest.Seconds())
	ch.gauge("ssed_log_messages", "Messages in memory.", float64(s.Head-s.Tail))
}

func (ch scrape) feed(s *rsub.Stats) {
	ch.counter("ssed_feed_messages_total", "Messages received from Redis, with an ID.", s.Delivered)
	ch.counter("ssed_feed_skipped_total", "Messages from Redis that were left out, by reason.", s.Unnumbered, "reason", "unsynced")
	ch.counter("ssed_feed_skipped_total", "Messages from Redis that were left out, by reason.", s.Overlaps, "reason", "overlap")
	ch.counter("ssed_feed_skipped_total", "Messages from Redis that were left out, by reason.", s.Reserved, "reason", "reserved")
	ch.counter("ssed_feed_skipped_total", "Messages from Redis that were left out, by reason.", s.Oversize, "reason", "oversize")
	ch.counter("ssed_feed_skipped_total", "Messages from Redis that were left out, by reason.", s.Unaskable, "reason", "channel")
	ch.counter("ssed_feed_skipped_total", "Messages from Redis that were left out, by reason.", s.Unmatched, "reason", "unmatched")
	ch.counter("ssed_feed_skipped_total", "Messages from Redis that were left out, by reason.", s.Unframed, "reason", "unframed")
	ch.counter("ssed_feed_skipped_total", "Messages from Redis that were left out, by reason.", s.Foreign, "reason", "partition")
	ch.counter("ssed_feed_batches_total", "Messages of --batch-channel, each of which carries many.", s.Batches)
	ch.counter("ssed_feed_broken_batches_total", "Batches whose end could not be read. The messages in it are lost.", s.BrokenBatches)
	const results = "Messages published through this instance. told: with their ID. late: the ID came after 1 s. refused: too many others waited for theirs."
	ch.counter("ssed_publish_receipts_total", results, s.ResultsTold, "outcome", "told")
	ch.counter("ssed_publish_receipts_total", results, s.ResultsLate, "outcome", "late")
	ch.counter("ssed_publish_receipts_total", results, s.ResultsRefused, "outcome", "refused")
	ch.gauge("ssed_feed_links", "Subscriptions to Redis that work: their messages get IDs.", float64(s.SubscriptionsSynced))
	ch.counter("ssed_feed_connects_total", "Subscriptions to Redis made.", s.Connects)
	for cause := rsub.CauseDisconnect; cause <= rsub.CauseShutdown; cause++ {
		name := cause.String()
		ch.counter("ssed_feed_resyncs_total", "Times that a subscription to Redis stopped working, by reason.", s.Resyncs[name], "reason", name)
		ch.counter("ssed_feed_refused_ticks_total", "Ticks of the common clock that were refused, by reason.", s.RefusedTicks[name], "reason", name)
	}
	ch.counter("ssed_feed_ticks_total", "Ticks of the common clock received.", s.TicksSeen)
	ch.counter("ssed_feed_sent_ticks_total", "Ticks of the common clock sent by this instance.", s.TicksSent)
	ch.counter("ssed_feed_tick_errors_total", "Ticks of the common clock that could not be sent.", s.TickErrors)
	ch.counter("ssed_feed_takeovers_total", "Times that this instance began to send the ticks.", s.TakeOvers)
	ch.counter("ssed_feed_epochs_total", "Times that Redis lost its data.", s.EpochChanges)
	ch.counter("ssed_feed_check_mismatches_total", "Ticks after which two instances had seen different messages. This is a bug: please report it.", s.ChecksumMismatches)
	ch.histogram("ssed_feed_lag_seconds", "Time from a tick in Redis to its arrival.",
		s.LagSum.Seconds(), s.LagCounts[:], seconds(rsub.LagBounds[:]))
	ch.inbox(&s.Inbox)
}

func (ch scrape) inbox(s *rsub.InboxStats) {
	ch.counter("ssed_inbox_moved_total", "Entries of the inbox that this instance has published.", s.Moved)
	ch.counter("ssed_inbox_acknowledged_total", "Entries of the inbox that this instance has removed, because the history has them.", s.Acknowledged)
	for _, reason := range rsub.InboxReasons() {
		ch.counter("ssed_inbox_refused_total", "Entries that this instance moved from the inbox to its :refused stream, by reason.", s.Refused[reason], "reason", reason)
	}
	ch.counter("ssed_inbox_failures_total", "Commands for the inbox that Redis refused.", s.Failures)
	ch.gauge("ssed_inbox_entries", "Entries of the inbox that are not in the history yet. 0 on instances that do not send the ticks.", float64(s.Length))
	ch.gauge("ssed_inbox_batches", "Batches of entries that are published and not in the history yet.", float64(s.Batches))
	ch.gauge("ssed_inbox_oldest_timestamp_seconds", "When the first entry that waits was added, by the clock of Redis. 0 when none waits.", unixSeconds(s.Oldest))
}

func unixSeconds(t time.Time) float64 {
	if t.IsZero() {
		return 0
	}
	return float64(t.UnixMilli()) / 1000
}

// histogram takes one count for each bound and one for what is beyond them.
func (ch scrape) histogram(name, help string, sum float64, counts []uint64, bounds []float64) {
	buckets := make(map[float64]uint64, len(bounds))
	var count uint64
	for i, bound := range bounds {
		count += counts[i]
		buckets[bound] = count
	}
	count += counts[len(bounds)]
	ch <- prometheus.MustNewConstHistogram(prometheus.NewDesc(name, help, nil, nil), count, sum, buckets)
}

func seconds(bounds []time.Duration) []float64 {
	all := make([]float64, len(bounds))
	for i, bound := range bounds {
		all[i] = bound.Seconds()
	}
	return all
}

func (ch scrape) fleet(s *fleet.Stats) {
	ch.counter("ssed_fleet_reports_total", "Times that this instance told the others that it runs.", s.Beats)
	ch.counter("ssed_fleet_report_errors_total", "Times that this instance could not tell the others that it runs.", s.BeatErrors)
	for _, setting := range slices.Sorted(maps.Keys(s.Mismatches)) {
		ch.gauge("ssed_fleet_mismatches", "Other instances with another value, by setting. Settings that must not differ are refused at start.", float64(s.Mismatches[setting]), "setting", setting)
	}
	ch.counter("ssed_fleet_questions_total", "Questions to the other instances, by the admin API here.", s.Asked)
	ch.counter("ssed_fleet_answers_total", "Questions of other instances that were answered.", s.Answers)
	ch.counter("ssed_fleet_unanswered_total", "Questions of other instances that were not answered, by reason.", s.AnswerErrors, "reason", "error")
	ch.counter("ssed_fleet_unanswered_total", "Questions of other instances that were not answered, by reason.", s.Dropped, "reason", "dropped")
	ch.counter("ssed_fleet_unanswered_total", "Questions of other instances that were not answered, by reason.", s.Busy, "reason", "busy")
	ch.counter("ssed_fleet_revoked_errors_total", "Times that the list of who is kept out could not be read. The next report reads it again.", s.LearnErrors)
}

func (ch scrape) history(s *rstore.Stats) {
	ch.counter("ssed_history_messages_total", "Messages written by this instance.", s.Appended)
	ch.counter("ssed_history_batches_total", "Batches of messages written by this instance.", s.Batches)
	sizes := make([]float64, len(rstore.SizeBounds))
	for i, bound := range rstore.SizeBounds {
		sizes[i] = float64(bound)
	}
	ch.histogram("ssed_history_batch_messages", "Messages in a batch.", float64(s.BatchMessages), s.BatchSizes, sizes)
	ch.histogram("ssed_history_write_seconds", "Time of a round trip to Redis that writes messages, up to eight batches at once.",
		s.WriteTime.Seconds(), s.WriteTimes, seconds(rstore.TimeBounds[:]))
	ch.counter("ssed_history_advances_total", "Times that the end of the history was moved on without a message.", s.Advances)
	ch.counter("ssed_history_refused_batches_total", "Batches that changed nothing. stale: another instance wrote first. epoch: Redis lost its data. server: another primary had taken over from the one that numbered them.", s.RefusedStale, "reason", "stale")
	ch.counter("ssed_history_refused_batches_total", "Batches that changed nothing. stale: another instance wrote first. epoch: Redis lost its data. server: another primary had taken over from the one that numbered them.", s.RefusedEpoch, "reason", "epoch")
	ch.counter("ssed_history_refused_batches_total", "Batches that changed nothing. stale: another instance wrote first. epoch: Redis lost its data. server: another primary had taken over from the one that numbered them.", s.RefusedServer, "reason", "server")
	ch.counter("ssed_history_refused_messages_total", "Messages that their stream in Redis refused.", s.RefusedMessages)
	ch.counter("ssed_history_capped_total", "Times that --history-cap removed messages younger than --history-window.", s.Capped)
	ch.counter("ssed_history_deleted_messages_total", "Messages deleted by DELETE /api/history on this instance.", s.Deleted)
	ch.counter("ssed_history_gaps_total", "Gap markers written, for stretches that no instance saw.", s.GapMarkers)
	ch.counter("ssed_history_disputes_total", "Gap markers about a stretch that another instance may have written.", s.Invalidations)
	ch.counter("ssed_history_saved_messages_total", "Messages of such stretches that the inbox still had.", s.SavedMessages)
	ch.counter("ssed_history_takeovers_total", "Times that this instance became the writer.", s.TakeOvers)
	ch.counter("ssed_history_errors_total", "Commands to Redis that failed, by reason.", s.Errors.Link, "reason", "link")
	ch.counter("ssed_history_errors_total", "Commands to Redis that failed, by reason.", s.Errors.Memory, "reason", "memory")
	ch.counter("ssed_history_errors_total", "Commands to Redis that failed, by reason.", s.Errors.ReadOnly, "reason", "readonly")
	ch.counter("ssed_history_errors_total", "Commands to Redis that failed, by reason.", s.Errors.Other, "reason", "other")
	ch.gauge("ssed_history_lag_seconds", "How long messages have waited to be written. 0 on instances that do not write.", s.Lag.Seconds())
	ch.gauge("ssed_history_watermark_timestamp_seconds", "Time up to which the history is written, by the clock of Redis.",
		(time.Duration(s.Watermark.Ms) * time.Millisecond).Seconds())
}

// watermarkLag tells by how much the history is behind, on every instance: that of the
// partition where it is most. Both ends are times of Redis' clock; an instance that does not
// write hears of one with the ticks.
func (ch scrape) watermarkLag(partitions []ssed.PartitionState) {
	lag := time.Duration(0)
	for _, p := range partitions {
		if !p.Written.IsZero() { // else it is not known yet
			lag = max(lag, time.Duration(p.Last.Ms-min(p.Last.Ms, p.Written.Ms))*time.Millisecond)
		}
	}
	ch.gauge("ssed_history_watermark_lag_seconds", "How far the history is behind what this instance has received, as of the last tick.", lag.Seconds())
}

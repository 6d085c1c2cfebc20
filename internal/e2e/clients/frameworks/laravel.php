<?php
// Publishes as Laravel's broadcaster for Redis does: the same members in the same order, by
// json_encode without options, and one script for all channels.
//   php laravel.php HOST:PORT EVENT DATA SOCKET CHANNEL...    DATA is JSON, SOCKET may be ""
[, $address, $event, $data, $socket] = $argv;
$channels = array_slice($argv, 5);
$payload = json_encode(['event' => $event, 'data' => json_decode($data, true), 'socket' => $socket === '' ? null : $socket]);
$script = 'for i = 2, #ARGV do redis.call("publish", ARGV[i], ARGV[1]) end';

$command = array_merge(['EVAL', $script, '0', $payload], $channels);
$request = '*' . count($command) . "\r\n";
foreach ($command as $word) {
    $request .= '$' . strlen($word) . "\r\n$word\r\n";
}
$redis = stream_socket_client("tcp://$address");
fwrite($redis, $request);
$answer = fgets($redis);
if ($answer[0] === '-') {
    fwrite(STDERR, $answer);
    exit(1);
}
echo $payload;

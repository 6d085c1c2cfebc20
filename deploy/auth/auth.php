<?php
// An example service for --auth-url, in PHP: below php-fpm, as a CGI program, or
//
//     SESSION_SECRET=... php -S 127.0.0.1:9200 auth.php
//     ssed --auth-url http://127.0.0.1:9200/auth.php
//
// A session cookie is "user|end|signature", see session() below. Take your own sessions
// instead. What matters is what this decides on: X-SSE-Channels and nothing else.
// $_GET is not what the client asked ssed for, and X-Original-URI is for the log.

// The user of the session cookie and when it ends; null without a valid one.
function session(): ?array
{
    $parts = explode('|', $_COOKIE['session'] ?? '');
    if (count($parts) !== 3) {
        return null;
    }
    [$user, $end, $signature] = $parts;
    $valid = hash_hmac('sha256', "$user|$end", getenv('SESSION_SECRET') ?: throw new Exception('SESSION_SECRET is not set'));
    return hash_equals($valid, $signature) && (int) $end > time() ? [$user, (int) $end] : null;
}

// Everyone with a session may have news:..., and the channel of their own.
function mayHave(string $user, string $channel): bool
{
    return str_starts_with($channel, 'news:') || $channel === "user:$user";
}

// Names are percent-encoded and joined by commas.
$channels = array_map('rawurldecode', explode(',', $_SERVER['HTTP_X_SSE_CHANNELS']));
$session = session();
if ($session === null) {
    http_response_code(401);
    exit;
}
[$user, $end] = $session;
foreach ($channels as $channel) {
    if (!mayHave($user, $channel)) {
        http_response_code(403);
        exit;
    }
}
header('X-SSE-Subject: ' . rawurlencode($user));
header("X-SSE-Expires: $end");
http_response_code(204);

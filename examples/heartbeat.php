<?php
// Keeps a user online until it is stopped, then goes offline at once. Needs only PHP 8 on a command line:
//
//     php heartbeat.php alice
//     php heartbeat.php alice phone        # with a session, one device of alice
//
// In a web application, call heartbeat() in each request of a user who is logged in; nothing else is needed.
// KEYBEAT_URL is the URL of the daemon (default http://127.0.0.1:7400), KEYBEAT_TOKEN a token for it.

const TTL_MS = 30_000;
const EVERY_S = TTL_MS / 1000 / 3; // so that two may be lost

$daemon = getenv('KEYBEAT_URL') ?: 'http://127.0.0.1:7400';
$user = $argv[1] ?? 'alice';
$session = $argv[2] ?? null;
$url = "$daemon/v1/users/" . rawurlencode($user);

function call(string $method, string $url, ?array $body = null): void
{
    $headers = ['Content-Type: application/json'];
    if ($token = getenv('KEYBEAT_TOKEN')) {
        $headers[] = "Authorization: Bearer $token";
    }
    $http = ['method' => $method, 'header' => $headers, 'timeout' => 5];
    if ($body !== null) {
        $http['content'] = json_encode($body);
    }
    if (@file_get_contents($url, false, stream_context_create(['http' => $http])) === false) {
        throw new RuntimeException(error_get_last()['message']);
    }
}

function heartbeat(string $url, ?string $session): void
{
    try {
        call('PUT', "$url/heartbeat", ['session' => $session, 'ttl_ms' => TTL_MS]);
    } catch (RuntimeException $why) { // the next one may succeed
        fwrite(STDERR, "a heartbeat failed: {$why->getMessage()}\n");
    }
}

$signals = [SIGINT, SIGTERM];
pcntl_sigprocmask(SIG_BLOCK, $signals); // the loop below waits for them
echo "$user is kept online; stop with Ctrl-C\n";
do {
    heartbeat($url, $session);
} while (pcntl_sigtimedwait($signals, $info, EVERY_S) === -1);
try {
    call('DELETE', $url . ($session === null ? '' : '?session=' . rawurlencode($session)));
} catch (RuntimeException $why) {
    fwrite(STDERR, "the goodbye failed, so $user goes offline when the TTL ends: {$why->getMessage()}\n");
    exit(1);
}

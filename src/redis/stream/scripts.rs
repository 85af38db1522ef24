//! The scripts, for the server that owns the stream's slot. No other command runs in the middle of one.
//!
//! The lease is `TOKEN NUMBER`, with ` stale` at its end while its holder's view is not current. A bucket that is whole has
//! the member `#`, which no user's name contains: a SET that was evicted or deleted lacks it.

use ring::digest::{SHA1_FOR_LEGACY_USE_ONLY, digest};
use std::sync::OnceLock;

/// A script and its SHA-1, by which servers know it.
pub(super) struct Script {
    pub(super) text: &'static str,
    sha: OnceLock<String>,
}

impl Script {
    const fn new(text: &'static str) -> Script {
        Script { text, sha: OnceLock::new() }
    }

    /// The name of the script at a server.
    pub(super) fn sha(&self) -> &str {
        self.sha.get_or_init(|| {
            let digest = digest(&SHA1_FOR_LEGACY_USE_ONLY, self.text.as_bytes());
            digest.as_ref().iter().map(|byte| format!("{byte:02x}")).collect()
        })
    }
}

/// Takes the lease. KEYS: lease, stream. ARGV: token, milliseconds.
pub(super) static TAKE: Script = Script::new(
    r"
local exists = redis.call('EXISTS', KEYS[2])
local lease = redis.call('GET', KEYS[1])
if lease then
  local token, number, rest = string.match(lease, '^(%S+) (%d+)(.*)$')
  if token == ARGV[1] then
    redis.call('PEXPIRE', KEYS[1], ARGV[2])
    return {'held', number, exists}
  end
  if rest ~= ' stale' and redis.call('PTTL', KEYS[1]) >= 0 then return {'other'} end
end
redis.call('SET', KEYS[1], ARGV[1] .. ' 0', 'PX', ARGV[2])
return {'held', '0', exists}
",
);

/// The beginning of each write. It renews the lease, which a server without memory refuses before anything is done. KEYS: lease,
/// stream. ARGV: token, number, milliseconds, ' stale' or '', 1 if the stream exists.
macro_rules! checked {
    ($rest:literal) => {
        concat!(
            r"
local lease = redis.call('GET', KEYS[1])
if not lease then return {'lost'} end
local token, number = string.match(lease, '^(%S+) (%d+)')
if token ~= ARGV[1] then return {'other'} end
if number == ARGV[2] then return {'done', 0, 0} end
if tonumber(number) + 1 ~= tonumber(ARGV[2]) then return {'changed'} end
local kind = redis.call('TYPE', KEYS[2]).ok
if kind ~= 'none' and kind ~= 'stream' then
  return redis.error_reply('WRONGTYPE the key of the stream holds a ' .. kind)
end
if kind == 'none' and ARGV[5] == '1' then return {'gone'} end
if kind == 'stream' and ARGV[5] == '0' then return {'changed'} end
redis.call('SET', KEYS[1], lease, 'PX', ARGV[3])
",
            $rest
        )
    };
}

/// Adds entries. KEYS: lease, stream, buckets. ARGV: as above, MAXLEN; for each entry the number of its bucket among KEYS, user,
/// state, at_ms, name of the mark, mark or '', reason.
///
/// A command that the server refuses ends the script, and what it did stays done. So the script tries the rights on a bucket first,
/// adds an entry before it changes the bucket, and counts the batch as done at its end: a refused batch is sent again whole.
pub(super) static WRITE: Script = Script::new(checked!(
    r"
for i = 3, #KEYS do
  if redis.call('SISMEMBER', KEYS[i], '#') == 0 then return {'bucket', i - 3} end
end
if KEYS[3] then
  redis.call('SADD', KEYS[3], '#')
  redis.call('SREM', KEYS[3], '')
end
local written, repeated = 0, 0
for i = 7, #ARGV, 7 do
  local bucket, user, state, at, name, mark, reason = unpack(ARGV, i, i + 6)
  local key, online = KEYS[tonumber(bucket)], state == 'online'
  if (redis.call('SISMEMBER', key, user) == 1) == online then
    repeated = repeated + 1
  else
    written = written + 1
    local entry = {'XADD', KEYS[2], 'MAXLEN', '~', ARGV[6], '*', 'user', user, 'state', state, 'at_ms', at}
    if mark ~= '' then
      entry[#entry + 1] = name
      entry[#entry + 1] = mark
    end
    entry[#entry + 1] = 'reason'
    entry[#entry + 1] = reason
    redis.call(unpack(entry))
    redis.call(online and 'SADD' or 'SREM', key, user)
  end
end
redis.call('SET', KEYS[1], ARGV[1] .. ' ' .. ARGV[2] .. ARGV[4], 'PX', ARGV[3])
return {'done', written, repeated}
"
));

/// Writes members of a bucket. KEYS: lease, stream, bucket. ARGV: as above, 1 for the first members, 1 for the last ones,
/// members. It counts the batch as done at its end, as a write does.
pub(super) static REBUILD: Script = Script::new(checked!(
    r"
if ARGV[6] == '1' then redis.call('DEL', KEYS[3]) end
for i = 8, #ARGV do redis.call('SADD', KEYS[3], ARGV[i]) end
if ARGV[7] == '1' then redis.call('SADD', KEYS[3], '#') end
redis.call('SET', KEYS[1], ARGV[1] .. ' ' .. ARGV[2] .. ARGV[4], 'PX', ARGV[3])
return {'done', 0, 0}
"
));

/// Gives up the lease. KEYS: lease. ARGV: token.
pub(super) static RELEASE: Script = Script::new(
    r"
local lease = redis.call('GET', KEYS[1])
if lease and string.match(lease, '^%S+') == ARGV[1] then redis.call('DEL', KEYS[1]) end
return {'released'}
",
);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sha_is_that_of_the_server() {
        let script = Script::new("return 1");
        assert_eq!(script.sha(), "e0e1f9fabfc9d4800c877a703b823ac0578ff8db");
    }
}

//! A hash that all daemons compute alike.

/// FNV-1a with 64 bits (RFC 9923): it has no key, so all daemons compute the same.
pub fn fnv1a(bytes: &[u8]) -> u64 {
    bytes
        .iter()
        .fold(0xcbf2_9ce4_8422_2325, |hash, &byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hash_is_that_of_the_rfc() {
        // Two daemons of different builds must compute the same.
        assert_eq!(fnv1a(b"foobar"), 0x8594_4171_f739_67e8, "a value of RFC 9923");
    }
}

//! Commands, encoded as they go over the wire.

/// The command after which a node answers the next one although it is only importing that command's slot.
pub(in crate::redis) const ASKING: &str = "ASKING";

/// One or more commands in RESP.
#[derive(Default)]
pub(in crate::redis) struct Commands {
    bytes: Vec<u8>,
    count: usize,
}

impl Commands {
    /// A single command.
    pub(in crate::redis) fn one(words: &[&str]) -> Commands {
        let mut commands = Commands::default();
        commands.add(words);
        commands
    }

    /// Appends a command.
    pub(in crate::redis) fn add(&mut self, words: &[&str]) {
        self.header(b'*', words.len());
        for word in words {
            self.header(b'$', word.len());
            self.bytes.extend_from_slice(word.as_bytes());
            self.bytes.extend_from_slice(b"\r\n");
        }
        self.count += 1;
    }

    fn header(&mut self, kind: u8, length: usize) {
        self.bytes.push(kind);
        self.bytes.extend_from_slice(itoa::Buffer::new().format(length).as_bytes());
        self.bytes.extend_from_slice(b"\r\n");
    }

    /// Appends `PTTL`. It changes neither the key's LRU nor its LFU data.
    pub(in crate::redis) fn add_pttl(&mut self, redis_key: &str) {
        self.add(&["PTTL", redis_key]);
    }

    /// Appends [`ASKING`].
    pub(in crate::redis) fn add_asking(&mut self) {
        self.add(&[ASKING]);
    }

    /// Appends all of `others`.
    pub(in crate::redis) fn append(&mut self, others: Commands) {
        self.extend(&others);
    }

    /// Appends a copy of all of `others`.
    pub(super) fn extend(&mut self, others: &Commands) {
        self.bytes.extend_from_slice(&others.bytes);
        self.count += others.count;
    }

    /// How many commands there are, which is how many replies they get.
    pub(in crate::redis) fn len(&self) -> usize {
        self.count
    }

    /// The commands as sent.
    pub(in crate::redis) fn bytes(&self) -> &[u8] {
        &self.bytes
    }
}

//! Numbered slots in chunks: a number stays valid until its slot is freed.
//!
//! The crate `slab` is one `Vec`, which copies everything when it grows and then reserves twice the
//! memory: 1,000,001 users would pay for 2,000,000. Chunks reserve at most 1,023 slots too many.

const CHUNK: usize = 1024;

/// Values by slot number.
#[derive(Clone)]
pub struct Slots<T> {
    chunks: Vec<Vec<Option<T>>>,
    free: Vec<u32>,
    len: usize,
}

impl<T> Slots<T> {
    pub fn new() -> Slots<T> {
        Slots { chunks: Vec::new(), free: Vec::new(), len: 0 }
    }

    /// The number of taken slots.
    pub fn len(&self) -> usize {
        self.len
    }

    /// One past the highest number ever assigned.
    pub fn end(&self) -> u32 {
        match self.chunks.last() {
            None => 0,
            Some(last) => ((self.chunks.len() - 1) * CHUNK + last.len()) as u32,
        }
    }

    /// Stores a value and returns its number.
    pub fn insert(&mut self, value: T) -> u32 {
        self.len += 1;
        if let Some(at) = self.free.pop() {
            self.chunks[at as usize / CHUNK][at as usize % CHUNK] = Some(value);
            return at;
        }
        if self.chunks.last().is_none_or(|last| last.len() == CHUNK) {
            self.chunks.push(Vec::with_capacity(CHUNK));
        }
        let at = self.end();
        if let Some(last) = self.chunks.last_mut() {
            last.push(Some(value));
        }
        at
    }

    /// Takes a value out; its number may be assigned again.
    pub fn remove(&mut self, at: u32) -> Option<T> {
        let taken = self.chunks.get_mut(at as usize / CHUNK)?.get_mut(at as usize % CHUNK)?.take();
        if taken.is_some() {
            self.len -= 1;
            self.free.push(at);
        }
        taken
    }

    pub fn get(&self, at: u32) -> Option<&T> {
        self.chunks.get(at as usize / CHUNK)?.get(at as usize % CHUNK)?.as_ref()
    }

    pub fn get_mut(&mut self, at: u32) -> Option<&mut T> {
        self.chunks.get_mut(at as usize / CHUNK)?.get_mut(at as usize % CHUNK)?.as_mut()
    }
}

impl<T> std::ops::Index<u32> for Slots<T> {
    type Output = T;

    /// The value of a number that is known to be taken.
    fn index(&self, at: u32) -> &T {
        self.get(at).expect("a slot number is used only while its slot is taken")
    }
}

impl<T> std::ops::IndexMut<u32> for Slots<T> {
    fn index_mut(&mut self, at: u32) -> &mut T {
        self.get_mut(at).expect("a slot number is used only while its slot is taken")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn freed_number_is_assigned_again() {
        let mut slots = Slots::new();
        let numbers: Vec<u32> = (0..2_000).map(|value| slots.insert(value)).collect();
        assert_eq!(numbers, (0..2_000).collect::<Vec<_>>());
        assert_eq!((slots.remove(1_500), slots.remove(1_500)), (Some(1_500), None));
        assert_eq!((slots.len(), slots.get(1_500)), (1_999, None));
        assert_eq!((slots.insert(7), slots[1_500]), (1_500, 7));
        assert_eq!((slots.len(), slots.end()), (2_000, 2_000));
    }
}

//! The source `c4`: a folder of the published shards of C4, `c4-train.NNNNN-of-01024.json.gz` and
//! `c4-validation.NNNNN-of-00008.json.gz`, or of any of them, read in the order of their numbers.
//!
//! Where validation shards are present, they alone are the validation split. Else documents of the training shards are held out.

use std::path::{Path, PathBuf};

use super::{Files, Side, Source, Visitor, hash_files, jsonl, sorted_files};
use crate::DataError;

/// The name of a shard, taken apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Shard {
    validation: bool,
    number: u32,
}

impl Shard {
    pub(crate) fn of(path: &Path) -> Option<Shard> {
        let name = path.file_name()?.to_str()?;
        let (split, rest) = name.strip_prefix("c4-")?.split_once('.')?;
        let validation = match split {
            "train" => false,
            "validation" => true,
            _ => return None,
        };
        let (number, rest) = rest.split_once("-of-")?;
        let (total, ending) = rest.split_once('.')?;
        total.parse::<u32>().ok()?;
        matches!(ending, "json.gz" | "json.zst" | "json").then_some(())?;
        Some(Shard {
            validation,
            number: number.parse().ok()?,
        })
    }
}

/// The shards of a folder.
pub struct C4 {
    training: Vec<PathBuf>,
    validation: Vec<PathBuf>,
    size_bytes: u64,
}

impl C4 {
    /// # Errors
    /// The folder is missing or holds no training shard.
    pub fn new(directory: &Path) -> Result<C4, DataError> {
        let mut shards: Vec<(Shard, PathBuf)> = sorted_files(directory)?
            .into_iter()
            .filter_map(|path| Some((Shard::of(&path)?, path)))
            .collect();
        shards.sort_by_key(|(shard, _)| *shard);
        let (validation, training): (Vec<_>, Vec<_>) =
            shards.into_iter().partition(|(shard, _)| shard.validation);
        if training.is_empty() {
            return Err(DataError::NothingInFolder {
                path: directory.into(),
                expected: "training shards such as c4-train.00000-of-01024.json.gz",
            });
        }
        let paths = |shards: Vec<(Shard, PathBuf)>| -> Vec<PathBuf> {
            shards.into_iter().map(|(_, path)| path).collect()
        };
        let (training, validation) = (paths(training), paths(validation));
        Ok(C4 {
            size_bytes: Files::new(&[training.clone(), validation.clone()].concat())?.size_bytes,
            training,
            validation,
        })
    }
}

impl Source for C4 {
    fn fingerprint(&self, hashed: &mut dyn FnMut(u64)) -> Result<blake3::Hash, DataError> {
        let mut hasher = blake3::Hasher::new();
        hasher.update(hash_files(&self.validation, hashed)?.as_bytes());
        hasher.update(hash_files(&self.training, hashed)?.as_bytes());
        Ok(hasher.finalize())
    }

    fn size_bytes(&self) -> u64 {
        self.size_bytes
    }

    fn visit(&self, visitor: &mut Visitor<'_>) -> Result<(), DataError> {
        let side = if self.validation.is_empty() {
            Side::ByContent
        } else {
            Side::Training
        };
        let validation = self.validation.iter().map(|path| (path, Side::Validation));
        let training = self.training.iter().map(|path| (path, side));
        let mut before = 0;
        for (path, side) in validation.chain(training) {
            match jsonl::visit_file(path, jsonl::FIELD, side, before, visitor)? {
                Some(read) => before += read,
                None => break,
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shards_are_known_by_the_published_names_only() {
        let shard = |name: &str| Shard::of(Path::new(name)).map(|s| (s.validation, s.number));
        assert_eq!(shard("c4-train.00007-of-01024.json.gz"), Some((false, 7)));
        assert_eq!(
            shard("c4-validation.00001-of-00008.json.gz"),
            Some((true, 1))
        );
        assert_eq!(shard("c4-train.json.gz"), None);
        assert_eq!(shard("c4-test.00001-of-00008.json.gz"), None);
        assert_eq!(shard("other-train.00001-of-00008.json.gz"), None);
    }
}

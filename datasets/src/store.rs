//! The token store: a folder with the tokens of both splits as flat memory-mapped files.
//!
//! ```text
//! manifest.json                                 what it holds, from what it was made, hashes
//! tokenizer.json
//! training.tokens      validation.tokens        tokens of all documents, one after the other; u16 or u32, little endian
//! training.documents   validation.documents     u64, little endian: where each document begins, and the end
//! ```

use std::fs::File;
use std::io::{BufWriter, Write};
use std::ops::Range;
use std::path::{Path, PathBuf};

use memmap2::Mmap;
use serde::{Deserialize, Serialize};

use crate::{BadLines, DataError, DataSpec};

/// The layout of the folder. A store of another schema is not opened.
pub const SCHEMA: u32 = 1;

const MANIFEST: &str = "manifest.json";
const TOKENIZER: &str = "tokenizer.json";

/// The two disjoint parts of the documents.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Split {
    Training,
    Validation,
}

impl Split {
    const BOTH: [Split; 2] = [Split::Training, Split::Validation];

    fn name(self) -> &'static str {
        match self {
            Split::Training => "training",
            Split::Validation => "validation",
        }
    }
}

impl std::fmt::Display for Split {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.pad(self.name())
    }
}

/// What `manifest.json` holds.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Manifest {
    pub schema: u32,
    /// See [`Store::hash`].
    pub hash: String,
    /// What the store was made for, where it was made by [`crate::prepare()`].
    pub spec: Option<DataSpec>,
    /// The hash of the inputs that it was made from.
    pub fingerprint: Option<String>,
    pub tokenizer_hash: String,
    /// One more than the greatest token id.
    pub vocabulary: u32,
    pub end_of_text: u32,
    /// 2 or 4.
    pub bytes_per_token: u8,
    pub training: SplitManifest,
    pub validation: SplitManifest,
    pub bad_lines: BadLines,
}

/// What `manifest.json` holds of a split.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SplitManifest {
    pub documents: u64,
    /// With the token at the end of each document.
    pub tokens: u64,
    /// UTF-8 bytes of the text of the documents.
    pub text_bytes: u64,
    pub tokens_hash: String,
    pub documents_hash: String,
}

impl Manifest {
    fn split(&self, split: Split) -> &SplitManifest {
        match split {
            Split::Training => &self.training,
            Split::Validation => &self.validation,
        }
    }

    fn content_hash(&self) -> String {
        let mut hasher = blake3::Hasher::new_derive_key("relora token store, content, 1");
        let mut part = |bytes: &[u8]| {
            hasher.update(&(bytes.len() as u64).to_le_bytes());
            hasher.update(bytes);
        };
        part(self.tokenizer_hash.as_bytes());
        part(&self.vocabulary.to_le_bytes());
        part(&self.end_of_text.to_le_bytes());
        for split in Split::BOTH {
            part(self.split(split).tokens_hash.as_bytes());
            part(self.split(split).documents_hash.as_bytes());
        }
        hasher.finalize().to_hex().to_string()
    }
}

/// An open token store. It is never changed, and may be shared between threads.
#[derive(Debug)]
pub struct Store {
    directory: PathBuf,
    manifest: Manifest,
    training: Mapped,
    validation: Mapped,
}

#[derive(Debug)]
struct Mapped {
    tokens: Map,
    documents: Map,
}

impl Store {
    /// Opens a store and checks what is cheap to check: schema, sizes, hash of hashes. The tokens are not read; a token outside the
    /// vocabulary is found by [`Store::read`].
    ///
    /// # Errors
    /// The folder is missing or is not a whole store of this schema.
    pub fn open(directory: &Path) -> Result<Store, DataError> {
        let path = directory.join(MANIFEST);
        let json = std::fs::read_to_string(&path).map_err(|e| match e.kind() {
            std::io::ErrorKind::NotFound => DataError::damaged(directory, "no manifest.json in it"),
            _ => DataError::read(&path, e),
        })?;
        #[derive(Deserialize)]
        struct Schema {
            schema: u32,
        }
        let not_one =
            |e: serde_json::Error| DataError::damaged(directory, format!("manifest.json: {e}"));
        let Schema { schema } = serde_json::from_str(&json).map_err(not_one)?;
        if schema != SCHEMA {
            let reason = format!("its schema is {schema} and this program reads {SCHEMA}");
            return Err(DataError::damaged(directory, reason));
        }
        let manifest: Manifest = serde_json::from_str(&json).map_err(not_one)?;
        if manifest.hash != manifest.content_hash() {
            return Err(DataError::damaged(
                directory,
                "the hashes in its manifest disagree",
            ));
        }
        if !matches!(manifest.bytes_per_token, 2 | 4) {
            let reason = format!("tokens of {} bytes", manifest.bytes_per_token);
            return Err(DataError::damaged(directory, reason));
        }
        let mapped = |split: Split| -> Result<Mapped, DataError> {
            let SplitManifest {
                tokens, documents, ..
            } = manifest.split(split);
            Ok(Mapped {
                tokens: Map::open(
                    &tokens_path(directory, split),
                    *tokens,
                    manifest.bytes_per_token,
                )?,
                documents: Map::open(
                    &documents_path(directory, split),
                    documents.saturating_add(1),
                    8,
                )?,
            })
        };
        Ok(Store {
            training: mapped(Split::Training)?,
            validation: mapped(Split::Validation)?,
            directory: directory.into(),
            manifest,
        })
    }

    /// The hash of tokens, document borders and tokenizer, in hexadecimal: equal for equal data, whatever it was made from.
    pub fn hash(&self) -> &str {
        &self.manifest.hash
    }

    /// The folder of the store.
    pub fn directory(&self) -> &Path {
        &self.directory
    }

    /// Everything that the manifest holds.
    pub fn manifest(&self) -> &Manifest {
        &self.manifest
    }

    /// The `tokenizer.json` that made the tokens.
    pub fn tokenizer_path(&self) -> PathBuf {
        self.directory.join(TOKENIZER)
    }

    /// One more than the greatest token id: the vocabulary that a model needs.
    pub fn vocabulary(&self) -> usize {
        self.manifest.vocabulary as usize
    }

    /// The token that ends each document.
    pub fn end_of_text(&self) -> u32 {
        self.manifest.end_of_text
    }

    /// Tokens of the training split, the ends of documents included.
    pub fn training_tokens(&self) -> u64 {
        self.manifest.training.tokens
    }

    /// Tokens of the validation split, the ends of documents included.
    pub fn validation_tokens(&self) -> u64 {
        self.manifest.validation.tokens
    }

    /// UTF-8 bytes of the validation text, the divisor of bits per byte. The ends of documents have none.
    pub fn validation_text_bytes(&self) -> u64 {
        self.manifest.validation.text_bytes
    }

    /// Tokens of a split.
    pub fn tokens(&self, split: Split) -> u64 {
        self.manifest.split(split).tokens
    }

    /// Documents of a split.
    pub fn documents(&self, split: Split) -> u64 {
        self.manifest.split(split).documents
    }

    /// The lines of the corpus that could not be used.
    pub fn bad_lines(&self) -> &BadLines {
        &self.manifest.bad_lines
    }

    /// Where document `number` of a split lies in its tokens.
    ///
    /// # Errors
    /// The store is damaged.
    ///
    /// # Panics
    /// There is no such document.
    pub fn document(&self, split: Split, number: u64) -> Result<Range<u64>, DataError> {
        assert!(
            number < self.documents(split),
            "document {number} of {}",
            self.documents(split)
        );
        let offset = |index: u64| {
            let at = index as usize * 8;
            let bytes = &self.mapped(split).documents.bytes()[at..at + 8];
            u64::from_le_bytes(bytes.try_into().expect("a slice of eight bytes"))
        };
        let range = offset(number)..offset(number + 1);
        if range.start > range.end || range.end > self.tokens(split) {
            let reason = format!("{split} document {number} lies outside the tokens");
            return Err(DataError::damaged(&self.directory, reason));
        }
        Ok(range)
    }

    /// Appends tokens of a split to `tokens`.
    ///
    /// # Errors
    /// The store is damaged: a token lies outside the vocabulary.
    ///
    /// # Panics
    /// The range reaches beyond [`Store::tokens`].
    pub fn read(
        &self,
        split: Split,
        range: Range<u64>,
        tokens: &mut Vec<u32>,
    ) -> Result<(), DataError> {
        let width = self.manifest.bytes_per_token as usize;
        let bytes = &self.mapped(split).tokens.bytes()
            [range.start as usize * width..range.end as usize * width];
        let before = tokens.len();
        if width == 2 {
            let (pairs, _) = bytes.as_chunks::<2>();
            tokens.extend(
                pairs
                    .iter()
                    .map(|pair| u32::from(u16::from_le_bytes(*pair))),
            );
        } else {
            let (words, _) = bytes.as_chunks::<4>();
            tokens.extend(words.iter().map(|word| u32::from_le_bytes(*word)));
        }
        // An embedding looked up beyond its table is a crash of a device; this is one line about a file.
        match tokens[before..]
            .iter()
            .position(|token| *token >= self.manifest.vocabulary)
        {
            None => Ok(()),
            Some(at) => {
                let reason = format!(
                    "{split} token {} is {}, and the vocabulary is {}",
                    range.start + at as u64,
                    tokens[before + at],
                    self.manifest.vocabulary
                );
                Err(DataError::damaged(&self.directory, reason))
            }
        }
    }

    fn mapped(&self, split: Split) -> &Mapped {
        match split {
            Split::Training => &self.training,
            Split::Validation => &self.validation,
        }
    }
}

fn tokens_path(directory: &Path, split: Split) -> PathBuf {
    directory.join(format!("{split}.tokens"))
}

fn documents_path(directory: &Path, split: Split) -> PathBuf {
    directory.join(format!("{split}.documents"))
}

/// A file in memory, or nothing where the file is empty (empty files cannot be mapped).
#[derive(Debug)]
struct Map(Option<Mmap>);

impl Map {
    fn open(path: &Path, items: u64, bytes_per_item: u8) -> Result<Map, DataError> {
        let file = File::open(path).map_err(|e| DataError::read(path, e))?;
        let size = file.metadata().map_err(|e| DataError::read(path, e))?.len();
        let expected = items.checked_mul(u64::from(bytes_per_item));
        if expected != Some(size) || usize::try_from(size).is_err() {
            let reason =
                format!("it has {size} bytes where {items} items of {bytes_per_item} were written");
            return Err(DataError::damaged(path, reason));
        }
        if size == 0 {
            return Ok(Map(None));
        }
        #[expect(
            unsafe_code,
            reason = "mapping a file is unsafe by nature; the store is the one place"
        )]
        // SAFETY: the map is read only, and nothing of ours writes a store after the rename that makes it visible. What
        // remains unproved is that no other program truncates the file while it is mapped: then a read raises SIGBUS.
        let map = unsafe { Mmap::map(&file) }.map_err(|e| DataError::read(path, e))?;
        Ok(Map(Some(map)))
    }

    fn bytes(&self) -> &[u8] {
        self.0.as_deref().unwrap_or(&[])
    }
}

/// Writes a store, document by document, into a folder of its own.
pub struct Writer {
    directory: PathBuf,
    tokenizer_hash: String,
    vocabulary: u32,
    end_of_text: u32,
    training: SplitWriter,
    validation: SplitWriter,
}

impl Writer {
    /// Begins a store in the existing empty folder `directory`. `tokenizer` is the content of its `tokenizer.json`.
    ///
    /// # Errors
    /// A file cannot be written.
    pub fn create(
        directory: &Path,
        tokenizer: &[u8],
        vocabulary: u32,
        end_of_text: u32,
    ) -> Result<Writer, DataError> {
        write_synced(&directory.join(TOKENIZER), tokenizer)?;
        let bytes_per_token = if vocabulary <= 1 << 16 { 2 } else { 4 };
        Ok(Writer {
            tokenizer_hash: blake3::hash(tokenizer).to_hex().to_string(),
            vocabulary,
            end_of_text,
            training: SplitWriter::create(directory, Split::Training, bytes_per_token)?,
            validation: SplitWriter::create(directory, Split::Validation, bytes_per_token)?,
            directory: directory.into(),
        })
    }

    /// Appends a document as it is (the token that ends it is the caller's), which stands for `text_bytes` bytes of text.
    /// Its tokens lie below the vocabulary; of others, the low bytes would be kept.
    ///
    /// # Errors
    /// A file cannot be written.
    pub fn push(&mut self, split: Split, tokens: &[u32], text_bytes: u64) -> Result<(), DataError> {
        match split {
            Split::Training => self.training.push(tokens, text_bytes),
            Split::Validation => self.validation.push(tokens, text_bytes),
        }
    }

    /// Tokens written so far.
    pub fn tokens(&self, split: Split) -> u64 {
        match split {
            Split::Training => self.training.manifest.tokens,
            Split::Validation => self.validation.manifest.tokens,
        }
    }

    /// Ends the store; when this returns, it is on the disk. The manifest comes last.
    ///
    /// # Errors
    /// A file cannot be written.
    pub fn finish(
        self,
        spec: Option<DataSpec>,
        fingerprint: Option<String>,
        bad_lines: BadLines,
    ) -> Result<Manifest, DataError> {
        let bytes_per_token = self.training.tokens.width;
        let mut manifest = Manifest {
            schema: SCHEMA,
            hash: String::new(),
            spec,
            fingerprint,
            tokenizer_hash: self.tokenizer_hash,
            vocabulary: self.vocabulary,
            end_of_text: self.end_of_text,
            bytes_per_token,
            training: self.training.finish()?,
            validation: self.validation.finish()?,
            bad_lines,
        };
        manifest.hash = manifest.content_hash();
        let path = self.directory.join(MANIFEST);
        let mut json =
            serde_json::to_vec_pretty(&manifest).map_err(|e| DataError::write(&path, e.into()))?;
        json.push(b'\n');
        write_synced(&path, &json)?;
        sync_directory(&self.directory)?;
        Ok(manifest)
    }
}

struct SplitWriter {
    manifest: SplitManifest,
    tokens: HashedFile,
    documents: HashedFile,
}

impl SplitWriter {
    fn create(
        directory: &Path,
        split: Split,
        bytes_per_token: u8,
    ) -> Result<SplitWriter, DataError> {
        let mut documents = HashedFile::create(documents_path(directory, split), 8)?;
        documents.write(&0_u64.to_le_bytes())?;
        Ok(SplitWriter {
            manifest: SplitManifest::default(),
            tokens: HashedFile::create(tokens_path(directory, split), bytes_per_token)?,
            documents,
        })
    }

    fn push(&mut self, tokens: &[u32], text_bytes: u64) -> Result<(), DataError> {
        let width = self.tokens.width as usize;
        let bytes: Vec<u8> = tokens
            .iter()
            .flat_map(|token| token.to_le_bytes().into_iter().take(width))
            .collect();
        self.tokens.write(&bytes)?;
        self.manifest.documents += 1;
        self.manifest.tokens += tokens.len() as u64;
        self.manifest.text_bytes += text_bytes;
        self.documents.write(&self.manifest.tokens.to_le_bytes())
    }

    fn finish(mut self) -> Result<SplitManifest, DataError> {
        self.manifest.tokens_hash = self.tokens.finish()?;
        self.manifest.documents_hash = self.documents.finish()?;
        Ok(self.manifest)
    }
}

/// A file that is hashed while it is written.
struct HashedFile {
    path: PathBuf,
    file: BufWriter<File>,
    hasher: blake3::Hasher,
    /// Bytes per item.
    width: u8,
}

impl HashedFile {
    fn create(path: PathBuf, width: u8) -> Result<HashedFile, DataError> {
        let file = File::create(&path).map_err(|e| DataError::write(&path, e))?;
        Ok(HashedFile {
            path,
            file: BufWriter::with_capacity(1 << 18, file),
            hasher: blake3::Hasher::new(),
            width,
        })
    }

    fn write(&mut self, bytes: &[u8]) -> Result<(), DataError> {
        self.hasher.update(bytes);
        self.file
            .write_all(bytes)
            .map_err(|e| DataError::write(&self.path, e))
    }

    fn finish(self) -> Result<String, DataError> {
        let HashedFile {
            path, file, hasher, ..
        } = self;
        file.into_inner()
            .map_err(std::io::IntoInnerError::into_error)
            .and_then(|file| file.sync_all())
            .map_err(|e| DataError::write(&path, e))?;
        Ok(hasher.finalize().to_hex().to_string())
    }
}

fn write_synced(path: &Path, bytes: &[u8]) -> Result<(), DataError> {
    File::create(path)
        .and_then(|mut file| {
            file.write_all(bytes)?;
            file.sync_all()
        })
        .map_err(|e| DataError::write(path, e))
}

/// Makes the names in a folder last through a power cut, where the platform can say so.
pub(crate) fn sync_directory(directory: &Path) -> Result<(), DataError> {
    #[cfg(unix)]
    File::open(directory)
        .and_then(|directory| directory.sync_all())
        .map_err(|e| DataError::write(directory, e))?;
    #[cfg(not(unix))]
    let _ = directory;
    Ok(())
}

//! A safetensors file, read and written a tensor at a time: eight bytes of length, a JSON header that names each tensor
//! with its type, shape and place, then the elements. A large model needs no second copy of itself in memory.

use std::fs::File;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};
use half::{bf16, f16};
use safetensors::Dtype;
use safetensors::tensor::{Metadata, TensorInfo};

use crate::files::{self, failed_to};

/// A tensor to write: its name, the type of its elements as the header writes it (`F32`, `BF16`), and its shape.
pub struct Entry<'a> {
    /// Its name.
    pub name: &'a str,
    /// Name of the type of its elements.
    pub dtype: &'static str,
    /// Its shape.
    pub shape: &'a [usize],
    /// Bytes of its elements.
    pub size_bytes: usize,
}

/// The length and the header of a file that holds these tensors in this order, padded so that the data is aligned.
/// `format`: what the elements are for, as the libraries that read model files ask for it (`pt`).
///
/// # Errors
/// None for names that JSON can hold.
pub fn header(entries: &[Entry<'_>], format: Option<&str>) -> Result<Vec<u8>> {
    let mut header = serde_json::Map::new();
    if let Some(format) = format {
        header.insert(
            "__metadata__".into(),
            serde_json::json!({ "format": format }),
        );
    }
    let mut begin = 0;
    for Entry {
        name,
        dtype,
        shape,
        size_bytes,
    } in entries
    {
        let end = begin + size_bytes;
        let entry =
            serde_json::json!({ "dtype": dtype, "shape": shape, "data_offsets": [begin, end] });
        header.insert((*name).to_owned(), entry);
        begin = end;
    }
    let mut text = serde_json::to_vec(&header)?;
    text.resize(text.len().next_multiple_of(8), b' ');
    let mut bytes = (text.len() as u64).to_le_bytes().to_vec();
    bytes.append(&mut text);
    Ok(bytes)
}

/// Writes tensors of `f32`, asking for the values of each, by name and shape, when it is its turn, and syncs the file.
///
/// # Errors
/// What the disk or `values` says.
pub fn write_f32(
    path: &Path,
    tensors: &[(String, Vec<usize>)],
    mut values: impl FnMut(&str, &[usize]) -> Result<Vec<f32>>,
) -> Result<()> {
    let entries: Vec<Entry<'_>> = tensors
        .iter()
        .map(|(name, shape)| Entry {
            name,
            dtype: "F32",
            shape,
            size_bytes: shape.iter().product::<usize>() * size_of::<f32>(),
        })
        .collect();
    let mut file = File::create(path).map_err(failed_to("write", path))?;
    file.write_all(&header(&entries, Some("pt"))?)
        .map_err(failed_to("write", path))?;
    for entry in &entries {
        let bytes: Vec<u8> = values(entry.name, entry.shape)?
            .into_iter()
            .flat_map(f32::to_le_bytes)
            .collect();
        ensure!(
            bytes.len() == entry.size_bytes,
            "{} came as {} bytes, its shape has {}",
            entry.name,
            bytes.len(),
            entry.size_bytes
        );
        file.write_all(&bytes).map_err(failed_to("write", path))?;
    }
    Ok(file.sync_all().map_err(failed_to("write", path))?)
}

/// An open file. It stays readable when someone removes its name, and threads may share it.
#[derive(Debug)]
pub struct TensorFile {
    path: PathBuf,
    file: File,
    metadata: Metadata,
    /// Where the elements begin.
    data_start: u64,
}

impl TensorFile {
    /// Opens a file and reads its header.
    ///
    /// # Errors
    /// A file that is missing or unreadable, or is no safetensors file or not a whole one.
    pub fn open(path: &Path) -> Result<TensorFile> {
        TensorFile::of(path, File::open(path).map_err(failed_to("read", path))?)
    }

    /// The same for a file that is open already.
    ///
    /// # Errors
    /// Those of [`TensorFile::open`].
    pub fn of(path: &Path, file: File) -> Result<TensorFile> {
        let (metadata, data_start) = read_header(&file)
            .with_context(|| format!("{} has no readable header", path.display()))?;
        let whole = file.metadata().map_err(failed_to("read", path))?.len();
        ensure!(
            whole - data_start >= metadata.data_len() as u64,
            "{} is cut off: it has {whole} bytes and should have {}",
            path.display(),
            data_start + metadata.data_len() as u64
        );
        Ok(TensorFile {
            path: path.to_owned(),
            file,
            metadata,
            data_start,
        })
    }

    /// The file.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Names of all tensors in the order of their elements.
    #[must_use]
    pub fn names(&self) -> Vec<String> {
        self.metadata.offset_keys()
    }

    /// Whether there is a tensor of this name.
    #[must_use]
    pub fn has(&self, name: &str) -> bool {
        self.metadata.info(name).is_some()
    }

    /// Type, shape and place of a tensor.
    ///
    /// # Errors
    /// A name that the file does not have.
    pub fn info(&self, name: &str) -> Result<&TensorInfo> {
        self.metadata
            .info(name)
            .with_context(|| format!("{} lacks {name}", self.path.display()))
    }

    /// The elements of a tensor as they are.
    ///
    /// # Errors
    /// A name that the file does not have; what the disk says.
    pub fn bytes(&self, name: &str) -> Result<Vec<u8>> {
        let (begin, end) = self.info(name)?.data_offsets;
        let mut bytes = vec![0; end - begin];
        files::read_exact_at(&self.file, &mut bytes, self.data_start + begin as u64)
            .map_err(failed_to("read", &self.path))?;
        Ok(bytes)
    }

    /// The elements of a tensor as `f32`. Every `bf16` and `f16` is one, so nothing is rounded.
    ///
    /// # Errors
    /// Those of [`TensorFile::bytes`]; a type of another kind.
    pub fn values(&self, name: &str) -> Result<Vec<f32>> {
        let dtype = self.info(name)?.dtype;
        let bytes = self.bytes(name)?;
        let pairs = || bytes.as_chunks::<2>().0.iter().copied();
        Ok(match dtype {
            Dtype::F32 => bytes
                .as_chunks::<4>()
                .0
                .iter()
                .copied()
                .map(f32::from_le_bytes)
                .collect(),
            Dtype::BF16 => pairs()
                .map(|pair| bf16::from_le_bytes(pair).to_f32())
                .collect(),
            Dtype::F16 => pairs()
                .map(|pair| f16::from_le_bytes(pair).to_f32())
                .collect(),
            other => bail!(
                "{} holds {name} as {other}; it must be F32, BF16 or F16",
                self.path.display()
            ),
        })
    }
}

/// The longest header that is read, bytes: that of the format's own library.
const LONGEST_HEADER: u64 = 100_000_000;

/// The header of a safetensors file and where its elements begin.
fn read_header(file: &File) -> Result<(Metadata, u64)> {
    let whole = file.metadata()?.len();
    let mut length = [0; 8];
    files::read_exact_at(file, &mut length, 0)?;
    let length = u64::from_le_bytes(length);
    ensure!(
        length <= whole.saturating_sub(8).min(LONGEST_HEADER),
        "its length is {length} bytes, the file's {whole}"
    );
    let mut text = vec![0; usize::try_from(length)?];
    files::read_exact_at(file, &mut text, 8)?;
    // The library checks that the tensors lie one behind the other and are as long as their shapes say.
    let metadata = serde_json::from_slice(&text).map_err(io::Error::from)?;
    Ok((metadata, 8 + length))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read_back_and_halves_are_widened() {
        let directory = tempfile::tempdir().expect("temporary directory");
        let path = directory.path().join("a.safetensors");
        let tensors = [("one".to_owned(), vec![2, 3]), ("two".to_owned(), vec![1])];
        let values = |name: &str| {
            Ok(match name {
                "one" => vec![0.0, -1.5, 2.0, 3.25, f32::MIN_POSITIVE, 1e30],
                _ => vec![7.0],
            })
        };
        write_f32(&path, &tensors, |name, _| values(name)).expect("written");
        let file = TensorFile::open(&path).expect("a safetensors file");
        assert_eq!(file.names(), ["one", "two"]);
        assert_eq!(file.info("one").expect("there").shape, [2, 3]);
        for name in ["one", "two"] {
            assert_eq!(
                file.values(name).expect("read"),
                values(name).expect("made")
            );
        }
        assert!(file.values("three").is_err());

        // -1.5 in bfloat16 and in half precision (IEEE 754 binary16).
        for (dtype, bytes) in [("BF16", [0xc0, 0xbf]), ("F16", [0x00, 0xbe])] {
            let entry = Entry {
                name: "half",
                dtype,
                shape: &[1],
                size_bytes: 2,
            };
            let bytes = [header(&[entry], None).expect("a header"), bytes.to_vec()].concat();
            std::fs::write(&path, bytes).expect("written");
            let file = TensorFile::open(&path).expect("a safetensors file");
            assert_eq!(file.values("half").expect("read"), [-1.5], "{dtype}");
        }
    }

    #[test]
    fn a_file_that_is_cut_off_or_something_else_is_refused() {
        let directory = tempfile::tempdir().expect("temporary directory");
        let path = directory.path().join("a.safetensors");
        let tensors = [("one".to_owned(), vec![4])];
        write_f32(&path, &tensors, |_, _| Ok(vec![1.0; 4])).expect("written");
        let whole = std::fs::read(&path).expect("read");
        for bytes in [
            &whole[..whole.len() - 1],
            &whole[..20],
            &whole[..3],
            &b"\xff\xff\xff\xff\xff\xff\xff\xff{}"[..],
            b"once upon a time there was no header",
        ] {
            std::fs::write(&path, bytes).expect("written");
            assert!(TensorFile::open(&path).is_err(), "{} bytes", bytes.len());
        }
    }
}

//! Files that are replaced as Kubernetes replaces a Secret.

use std::{
    fs,
    os::unix::fs::symlink,
    path::{Path, PathBuf},
};

use super::scratch::Scratch;

/// File names and texts.
pub(crate) type Content = Vec<(&'static str, String)>;

/// A Secret that is mounted as a volume: names that point by way of `..data` to a directory that is replaced as a whole.
pub(crate) struct Volume {
    files: Scratch,
    version: u32,
}

impl Volume {
    pub(crate) fn new(content: &Content) -> Self {
        let mut volume = Self { files: Scratch::in_memory(), version: 0 };
        volume.swap(content);
        for (name, _) in content {
            symlink(Path::new("..data").join(name), volume.at(name)).unwrap();
        }
        volume
    }

    /// As the kubelet does: a new directory, a new link beside the old one, and a rename over it.
    pub(crate) fn swap(&mut self, content: &Content) {
        let (root, before) = (self.files.path().to_path_buf(), self.version);
        self.version += 1;
        let directory = format!("..{}", self.version);
        fs::create_dir(root.join(&directory)).unwrap();
        for (name, text) in content {
            fs::write(root.join(&directory).join(name), text).unwrap();
        }
        symlink(&directory, root.join("..data_tmp")).unwrap();
        fs::rename(root.join("..data_tmp"), root.join("..data")).unwrap();
        let _ = fs::remove_dir_all(root.join(format!("..{before}")));
    }

    pub(crate) fn at(&self, name: &str) -> PathBuf {
        self.files.path().join(name)
    }

    pub(crate) fn path(&self, name: &str) -> String {
        self.at(name).to_str().unwrap().to_owned()
    }
}

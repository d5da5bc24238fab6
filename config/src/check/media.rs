//! `[media]`: sizes that fit into each other, types that are types, and a store that can be asked.

use crate::limits::LONGEST_PARKED;
use crate::media::{MediaSection, S3Section};

use super::Checker;
use super::syntax::is_content_type;

impl Checker<'_> {
    pub(super) fn media(&mut self) {
        let (media, default) = (&self.config.media, MediaSection::default());
        if !MediaSection::ITEM_BYTES.contains(&media.item_bytes) {
            let (least, most) = (MediaSection::ITEM_BYTES.start(), MediaSection::ITEM_BYTES.end() >> 30);
            let help = format!("type a size from {least} bytes to {most} GiB; the default is 25 MiB");
            self.error("media.item_bytes", format!("{} is out of range", media.item_bytes), help);
        } else if media.item_bytes > media.kept_bytes {
            let help = "raise `kept_bytes`, or lower `item_bytes`";
            self.error("media.kept_bytes", "`kept_bytes` is less than `item_bytes`: nothing large fits", help);
        }
        let (least, most) = (MediaSection::UNUSED_FOR.start(), MediaSection::UNUSED_FOR.end());
        self.time("media.unused_for", media.unused_for, *least, *most, default.unused_for);
        let (least, most) = (MediaSection::LINKS.start(), MediaSection::LINKS.end());
        self.time("media.upload_for", media.upload_for, *least, *most, default.upload_for);
        self.time("media.link_for", media.link_for, *least, *most, default.link_for);
        // A time that is out of range is told as that, and not a second time.
        let parked_for = self.config.limits.parked_for;
        if media.unused_for < parked_for && parked_for <= LONGEST_PARKED {
            let message = "a message may wait longer for its home than its media stay";
            self.warning("media.unused_for", message, "make it longer than `limits.parked_for`");
        }
        for (index, content_type) in media.content_types.iter().enumerate() {
            if !is_content_type(content_type) {
                let help = "type a type and a subtype in lower case without parameters, as image/png";
                self.error(format!("media.content_types[{index}]"), format!("`{content_type}` is no type"), help);
            }
        }
        match (&media.s3, &media.folder) {
            (Some(s3), folder) => {
                if folder.is_some() {
                    let help = "leave `folder` out, or the section [media.s3]";
                    self.warning("media.folder", "`folder` has no effect beside [media.s3]", help);
                }
                self.s3(s3);
            }
            (None, Some(folder)) if folder.exists() && !folder.is_dir() => {
                let message = format!("{} is not a folder", folder.display());
                self.error("media.folder", message, "name a folder; it is made when it does not exist");
            }
            (None, _) => self.media_of_others(),
        }
    }

    /// Clients of this region get links to media that other regions have.
    fn media_of_others(&mut self) {
        let (mesh, own) = (&self.config.mesh, &self.config.region.id);
        let told = mesh.regions.iter().filter(|region| region.ws.is_some()).count();
        let untold = mesh.regions.iter().find(|region| region.id != *own && region.ws.is_none());
        // Where no region has one, nobody is told of another region.
        if let Some(region) = untold.filter(|_| told > 0) {
            let message = format!("clients of this region get no media that are in `{}`", region.id);
            let help = "give every entry of mesh.regions its `ws`: REST, and with it media, are beside it";
            self.warning("mesh.regions", message, help);
        }
    }

    fn s3(&mut self, s3: &S3Section) {
        self.url("media.s3.endpoint", Some(&s3.endpoint), &["https://", "http://"], "");
        let is_word = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_graphic());
        for (key, value) in [("bucket", &s3.bucket), ("region", &s3.region), ("access_key_id", &s3.access_key_id)] {
            if !is_word(value) {
                let help = format!("type the {key} as the store's operator gave it to you");
                self.error(format!("media.s3.{key}"), format!("`{value}` cannot be it"), help);
            }
        }
        match (&s3.secret_access_key, &s3.secret_access_key_file) {
            (None, None) => {
                let help = "set HEARTH__MEDIA__S3__SECRET_ACCESS_KEY, or add secret_access_key_file = \"s3.secret\"";
                self.error("media.s3", "the store's key has no secret", help);
            }
            (None, Some(path)) => {
                let help = "name a file with the secret that belongs to access_key_id";
                if self.file("media.s3.secret_access_key_file", path, help).is_some() {
                    self.private_mode("media.s3.secret_access_key_file", path);
                }
            }
            (Some(_), _) => {}
        }
    }
}

//! Both adapters keep the contract of the ports.

use hearth_protocol::RegionId;
use region_model::conformance::Subject;
use region_model::ports::Stores;
use region_store::embedded::{Embedded, EmbeddedOptions};
use region_store::memory::Memory;

fn region() -> RegionId {
    RegionId::new("eu").expect("a valid name")
}

struct InMemory(Memory);

impl Subject for InMemory {
    fn stores(&self) -> Stores {
        self.0.stores()
    }

    fn reopen(&mut self) {
        self.0.crash();
    }
}

struct OnDisk {
    store: Option<Embedded>,
    folder: tempfile::TempDir,
    options: EmbeddedOptions,
}

impl OnDisk {
    fn fresh(options: EmbeddedOptions) -> Self {
        let folder = tempfile::tempdir().expect("makes a folder");
        let store = Embedded::open(folder.path(), &region(), &options).expect("opens");
        Self { store: Some(store), folder, options }
    }
}

impl Subject for OnDisk {
    fn stores(&self) -> Stores {
        self.store.as_ref().expect("it is open").stores()
    }

    fn reopen(&mut self) {
        self.store = None;
        self.store = Some(Embedded::open(self.folder.path(), &region(), &self.options).expect("opens again"));
    }
}

mod memory {
    region_model::store_conformance!(super::InMemory(super::Memory::new(super::region())));
}

mod embedded {
    region_model::store_conformance!(super::OnDisk::fresh(super::EmbeddedOptions::default()));
}

mod embedded_and_compressed {
    region_model::store_conformance!(super::OnDisk::fresh(super::EmbeddedOptions::default().compressed()));
}

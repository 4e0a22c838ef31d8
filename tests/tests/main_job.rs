//! The main job: a real server is initialised, killed, comes back sealed, and is opened again.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test fails by panicking"
)]

use unsealer_tests::openbao::{OpenBao, Storage};
use unsealer_tests::site::{Site, source};
use unsealer_tests::swtpm::Swtpm;

/// Each kind of program alone brings a killed server back: so each of them wraps and unwraps the shares.
#[test]
fn six_kinds_of_programs_each_bring_a_server_back() {
    let mut server = OpenBao::start(Storage::Raft);
    let mut tpm = Swtpm::new();
    let site = Site::new(&server.address())
        .file_slot("file")
        .software_slot("fingerprint")
        .tpm_slot("tpm", &tpm.tcti(), "");
    let (vendor, keeper, hook) = (
        site.copy_program(&source("docs/examples/vendor-kdf.py")),
        site.copy_program(&source("docs/examples/vendor-keeper.py")),
        site.program(
            "hook",
            "#!/bin/sh\necho 64acd82883269a5e46b8b0426d5a18e2b006f7d79041a68a4efa5339f25aba80\n",
        ),
    );
    let (device_key, device) = (site.folder().join("device.key"), site.folder().join("device"));
    std::fs::write(&device_key, [0x5a; 32]).unwrap();
    std::fs::set_permissions(&device_key, std::os::unix::fs::PermissionsExt::from_mode(0o600)).unwrap();
    std::fs::create_dir(&device).unwrap();
    let mut site = site
        .slot("vendor", &vendor, &[("device-key", device_key.to_str().unwrap())])
        .slot("keeper", &keeper, &[("folder", device.to_str().unwrap())])
        .hook_slot("hook", &hook);
    site.expect(&["status"], 2);
    site.init();
    site.expect(&["status"], 0);

    for slot in ["file", "fingerprint", "tpm", "vendor", "keeper", "hook"] {
        server.kill_9();
        tpm.reboot();
        server.restart();
        site.expect(&["status"], 2);
        let whole = site.leave_slot(slot);
        let report = site.json(&["unseal"], 0);
        assert_eq!(report["open"], true, "{slot}");
        site.expect(&["status"], 0);
        site.rewrite_config(|_| whole);
    }
}

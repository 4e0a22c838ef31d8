//! What people read, kept word for word: a change shows in review, as a change of a file.

use std::fs;
use std::path::Path;

/// Compares with `tests/tests/snapshots/NAME.txt`. With `UPDATE_SNAPSHOTS=1` in the environment that file is written.
pub fn assert_matches(name: &str, text: &str) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/snapshots")
        .join(format!("{name}.txt"));
    if std::env::var_os("UPDATE_SNAPSHOTS").is_some_and(|value| value == "1") {
        fs::create_dir_all(path.parent().expect("a file in a folder")).expect("the folder is made");
        fs::write(&path, text).expect("the snapshot is written");
        return;
    }
    let kept = fs::read_to_string(&path).unwrap_or_default();
    if kept == text {
        return;
    }
    let line = kept
        .lines()
        .zip(text.lines())
        .take_while(|(one, two)| one == two)
        .count();
    let at = |text: &str| text.lines().nth(line).unwrap_or("(the end)").to_owned();
    panic!(
        "{} differs in line {}\n  kept: {}\n   now: {}\nif it is right so, run the test again with UPDATE_SNAPSHOTS=1",
        path.display(),
        line + 1,
        at(&kept),
        at(text)
    );
}

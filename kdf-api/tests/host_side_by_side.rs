//! Calls side by side: each has its own outcome, deadline and end, whatever the others do.
//!
//! Security invariant 6: a hostile, hung, flooding or forking program costs its deadline, and costs those beside it nothing.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test fails by panicking"
)]

mod host_support;

use std::sync::Barrier;
use std::time::{Duration, Instant};

use host_support::{KEY, OK, Workshop, derive, device, is_alive, program, turn_as_subreaper, wait_until};
use kdf_api::Code;
use kdf_api::host::{Call, Cancel, Device, Executable, ProgramDirs};

/// Of programs that are not meant to come near it.
const AMPLE: Duration = Duration::from_secs(30);

/// A program that does this, described already, so that what follows is one call.
fn ready(workshop: &Workshop, does: &str, deadline: Duration) -> Executable {
    let mut device = device(program(&workshop.kdf("kdf", does)).timeout(deadline));
    device.describe().unwrap();
    device
}

fn answers() -> String {
    format!("printf '%s' '{OK}'")
}

#[test]
fn eight_at_once_each_with_its_own_outcome() {
    let _turn = turn_as_subreaper();
    let [
        hangs,
        floods,
        whispers,
        forks,
        babbles,
        crashes,
        is_slow,
        is_quick,
    ]: [_; 8] = std::array::from_fn(|_| Workshop::new());
    // Two sessions of its own, one started by the other.
    let daemons = "setsid sh -c 'echo $$ >> \"$1\"; setsid sleep 60 & echo $! >> \"$1\"; wait' sh";
    let forking = format!(
        "{daemons} '{}' > /dev/null 2>&1 & note $!; until [ \"$(wc -l < '{0}')\" -ge 3 ]; do sleep 0.02; done; {}",
        forks.at("notes").display(),
        answers()
    );
    // What it waits for is done by a process that left its session and its parent.
    let done = is_slow.at("done").display().to_string();
    let slow = format!(
        "(setsid sh -c 'sleep 1; touch {done}' > /dev/null 2>&1 &); until [ -e '{done}' ]; do sleep 0.02; done; {}",
        answers()
    );
    let deadline = Duration::from_secs(6);
    let hanging = ready(&hangs, "note $$; setsid sleep 60 & note $!; wait", deadline);
    let flooding = ready(&floods, "note $$; exec yes", AMPLE);
    let whispering = ready(&whispers, "note $$; exec yes >&2", Duration::from_millis(1500));
    let forking = ready(&forks, &forking, AMPLE);
    let babbling = ready(&babbles, "head -c 5000 /dev/urandom", AMPLE);
    let crashing = ready(&crashes, "note $$; kill -SEGV $$", AMPLE);
    let slow = ready(&is_slow, &slow, AMPLE);
    let quick = ready(&is_quick, &answers(), AMPLE);

    let start = Barrier::new(8);
    std::thread::scope(|scope| {
        let call = |mut device: Executable| {
            let start = &start;
            scope.spawn(move || {
                start.wait();
                derive(&mut device).map(|key| *key.value.expose())
            })
        };
        let hanging = call(hanging);
        let broken = [
            (call(flooding), "wrote more than", Some(&floods)),
            (call(whispering), "gave no answer within 1500 ms", Some(&whispers)),
            (call(babbling), "broke the KDF protocol", None),
            (call(crashing), "was killed by signal 11", Some(&crashes)),
        ];
        let good = [
            (call(quick), None),
            (call(forking), Some(&forks)),
            (call(slow), None),
        ];

        for (called, leaves) in good {
            assert_eq!(&called.join().unwrap().unwrap(), KEY);
            if let Some(workshop) = leaves {
                assert_eq!(workshop.noted().len(), 3);
                workshop.assert_reaped();
            }
        }
        for (called, message, leaves) in broken {
            let error = called.join().unwrap().unwrap_err();
            assert_eq!(error.code, Code::BrokenProgram, "{error}");
            assert!(error.message.contains(message), "{error}");
            if let Some(workshop) = leaves {
                workshop.assert_reaped();
            }
        }
        // All these are over while one hangs, and nobody touched it or what it started.
        hangs.wait_for_notes(2);
        assert!(!hanging.is_finished());
        assert!(hangs.noted().into_iter().all(is_alive));
        let error = hanging.join().unwrap().unwrap_err();
        assert!(error.message.ends_with("gave no answer within 6 s"), "{error}");
        hangs.assert_reaped();
    });
    assert_eq!(children(), "");
}

/// The children of this process, as the kernel lists them.
fn children() -> String {
    let threads = std::fs::read_dir("/proc/self/task").unwrap();
    threads
        .filter_map(|thread| std::fs::read_to_string(thread.unwrap().path().join("children")).ok())
        .collect()
}

#[test]
fn each_has_its_own_deadline() {
    let _turn = turn_as_subreaper();
    let workshop = Workshop::new();
    let deadlines = [2500, 1000, 1500, 2000].map(Duration::from_millis);
    let devices = deadlines.map(|deadline| (deadline, ready(&workshop, "exec sleep 60", deadline)));
    std::thread::scope(|scope| {
        for (deadline, mut device) in devices {
            scope.spawn(move || {
                let start = Instant::now();
                let error = derive(&mut device).unwrap_err();
                assert!(error.message.contains("gave no answer within"), "{error}");
                assert!((deadline..deadline + Duration::from_secs(1)).contains(&start.elapsed()));
            });
        }
    });
}

/// A program that forks without end, each process in a session of its own, while others come and go.
#[test]
fn one_that_forks_without_end_does_not_keep_others_from_their_answers() {
    let _turn = turn_as_subreaper();
    let (forks, others) = (Workshop::new(), Workshop::new());
    let (run, alive) = (forks.at("run"), forks.at("alive"));
    // At most 50 at a time, for the sake of the machine that tests run on.
    let text = format!(
        "import os, time\nopen('{}', 'w').close()\nwhile True:\n  for _ in range(50):\n    if not os.fork():\n      os.setsid()\n      if os.fork(): os._exit(0)\n      time.sleep(0.05); os._exit(0)\n  time.sleep(0.1)\n",
        alive.display()
    );
    std::fs::write(&run, text).unwrap();
    let does = format!("note $$; exec /usr/bin/python3 -I '{}'", run.display());
    let cancel = Cancel::new().unwrap();
    let mut forking = device(
        program(&forks.kdf("kdf", &does))
            .timeout(AMPLE)
            .cancelled_by(&cancel),
    );
    let mut other = ready(&others, &answers(), AMPLE);
    std::thread::scope(|scope| {
        let forking = scope.spawn(move || derive(&mut forking).map(|key| *key.value.expose()));
        wait_until("it forks", || alive.exists());
        for _ in 0..20 {
            assert_eq!(derive(&mut other).unwrap().value.expose(), KEY);
        }
        assert!(!forking.is_finished(), "the control: it still forks");
        cancel.cancel();
        assert_eq!(forking.join().unwrap().unwrap_err().code, Code::Cancelled);
    });
    forks.assert_reaped();
    assert_eq!(children(), "");
}

/// With a descriptor in the host that any child would inherit.
#[test]
fn no_child_inherits_a_descriptor_of_the_host_or_of_another_call() {
    let _turn = turn_as_subreaper();
    let leaking = std::fs::File::open("/dev/null").unwrap();
    rustix::io::fcntl_setfd(&leaking, rustix::io::FdFlags::empty()).unwrap();
    let checked = program("/usr/bin/ls".as_ref())
        .check(&ProgramDirs::default())
        .unwrap();
    let call = || {
        checked.call(&Call {
            arguments: &["/proc/self/fd"],
            input: Some(b"{}"),
            timeout: AMPLE,
            most: 1000,
            live: false,
        })
    };
    std::thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| {
                for _ in 0..10 {
                    // The last is the folder that `ls` reads.
                    assert_eq!(call().unwrap().output.as_bytes(), b"0\n1\n2\n3\n");
                }
            });
        }
    });
}

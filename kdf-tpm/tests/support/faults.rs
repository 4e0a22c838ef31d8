//! Faults between us and the TPM: what comes back to one command, or does not.

use super::Machine;

pub const CREATE_PRIMARY: u32 = 0x131;
pub const DEFINE: u32 = 0x12a;
pub const EVICT: u32 = 0x120;
pub const HMAC: u32 = 0x155;
pub const LOAD: u32 = 0x157;
pub const FLUSH: u32 = 0x165;
pub const NV_READ_PUBLIC: u32 = 0x169;
pub const NV_UNDEFINE: u32 = 0x122;
pub const NV_WRITE: u32 = 0x137;
pub const PCR_READ: u32 = 0x17e;
pub const READ_PUBLIC: u32 = 0x173;

/// The code of a command.
pub fn code_of(command: &[u8]) -> u32 {
    u32::from_be_bytes(command[6..10].try_into().unwrap())
}

/// An answer that is nothing but a response code.
pub fn answers(machine: &Machine, command: u32, code: u32) {
    machine.recorder().meddle(move |said, forward| {
        Some(if code_of(said) == command {
            refusal(code)
        } else {
            forward(said)
        })
    });
}

pub fn refusal(code: u32) -> Vec<u8> {
    [&[0x80, 0x01, 0, 0, 0, 10][..], &code.to_be_bytes()].concat()
}

/// What comes back to a command is nothing that a TPM says.
pub fn garbles(machine: &Machine, command: u32) {
    machine.recorder().meddle(move |said, forward| {
        let mut answer = forward(said);
        if code_of(said) == command {
            answer.resize(100, 0);
            answer[2..10].copy_from_slice(&[0, 0, 0, 100, 0, 0, 0, 0]);
            answer[10..].fill(0xee);
        }
        Some(answer)
    });
}

/// The connection is lost when this command comes.
pub fn hangs_up_at(machine: &Machine, command: u32) {
    machine
        .recorder()
        .meddle(move |said, forward| (code_of(said) != command).then(|| forward(said)));
}

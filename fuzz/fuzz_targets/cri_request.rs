#![no_main]
libfuzzer_sys::fuzz_target!(|data: &[u8]| podshim_fuzz::cri_request(data));

//! Settings: flag, then `AITBC_*` variable, then `config.toml`, then default.

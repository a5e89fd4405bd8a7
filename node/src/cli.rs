//! The command line: arguments, merged settings and commands apart; one file a command.

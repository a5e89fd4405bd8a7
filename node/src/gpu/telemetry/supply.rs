//! What feeds the machine (kernel documentation, `ABI/testing/sysfs-class-power`).

use super::sysfs::{entries, number, text};
use aitbc_protocol::gpu::power::Supply;
use std::path::Path;

/// What feeds the machine whose tree `root` is. Batteries of mice and headsets are not meant. Of several batteries the
/// fullest counts.
pub(crate) fn supply(root: &Path) -> Supply {
    let (mut battery, mut charge, mut discharging, mut online) = (false, None::<u8>, false, None);
    for supply in entries(&root.join("sys/class/power_supply")) {
        let read = |file: &str| text(&supply.join(file)).unwrap_or_default();
        match read("type").as_str() {
            "Battery" if read("scope") != "Device" => {
                battery = true;
                let told = number(&supply.join("capacity")).and_then(|percent| u8::try_from(percent).ok());
                charge = charge.max(told.filter(|percent| *percent <= 100));
                discharging |= read("status") == "Discharging";
            }
            "Mains" | "USB" => {
                let connected = number(&supply.join("online")) == Some(1);
                online = Some(online.unwrap_or(false) || connected);
            }
            _ => {}
        }
    }
    if battery {
        // A machine that tells of no socket tells at least whether its battery is being emptied.
        Supply::Battery { plugged: online.unwrap_or(!discharging), charge }
    } else {
        Supply::Mains
    }
}

#[cfg(test)]
mod tests {
    use super::super::recorded::Tree;
    use super::*;

    #[test]
    fn batteries_and_sockets_are_told_apart() {
        let tree = Tree::default();
        assert_eq!(supply(tree.root()), Supply::Mains, "a desktop");
        let mouse = [("type", "Battery"), ("scope", "Device"), ("capacity", "5"), ("status", "Discharging")];
        tree.write_all("sys/class/power_supply/hidpp_battery_0", &mouse);
        assert_eq!(supply(tree.root()), Supply::Mains);

        let battery = [("type", "Battery"), ("capacity", "81"), ("status", "Discharging")];
        tree.write_all("sys/class/power_supply/BAT0", &battery);
        assert_eq!(supply(tree.root()), Supply::Battery { plugged: false, charge: Some(81) });
        tree.write_all("sys/class/power_supply/AC", &[("type", "Mains"), ("online", "1")]);
        assert_eq!(supply(tree.root()), Supply::Battery { plugged: true, charge: Some(81) });
        tree.write_all("sys/class/power_supply/AC", &[("online", "0")]);
        tree.write_all("sys/class/power_supply/BAT0", &[("capacity", "255")]);
        assert_eq!(supply(tree.root()), Supply::Battery { plugged: false, charge: None });
    }
}

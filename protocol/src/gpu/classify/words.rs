//! A GPU's name taken apart.

use crate::gpu::{Form, Vendor};

/// Words that say nothing of the model.
const IDLE: &[&str] = &[
    "gpu",
    "graphics",
    "series",
    "corporation",
    "inc",
    "co",
    "ltd",
    "electronics",
    "advanced",
    "micro",
    "devices",
    "mesa",
    "dri",
    "device",
    "controller",
    "vga",
    "compatible",
    "3d",
    "display",
    "adapter",
    "engine",
    "opengl",
    "renderer",
    "metal",
    "angle",
    "unspecified",
    "version",
    "generation",
    "with",
    "design",
    "ati",
    "technologies",
    "the",
    "card",
    "nvidia",
    "amd",
    "intel",
    "apple",
    "qualcomm",
    "samsung",
    "arm",
    "imagination",
    "broadcom",
    "google",
    "turnip",
    "panfrost",
    "zink",
    "virgl",
    "d3d12",
    "microsoft",
    "direct3d12",
    "gallium",
    "on",
    "rogue",
    "core",
    "profile",
    "laptop",
    "vulkan",
    "es",
    "unknown",
    "virtio",
    "venus",
    "r",
    "tm",
    "b",
    "rev",
    "custom",
];

/// Words after which nothing of the model comes, once it was named.
const ENDS: &[&str] = &["direct3d", "d3d11", "vs", "opengl", "llvm", "drm", "unspecified", "vulkan", "rev"];

/// Makers by a word of theirs.
const MAKERS: &[(&str, Vendor)] = &[
    ("nvidia", Vendor::Nvidia),
    ("geforce", Vendor::Nvidia),
    ("quadro", Vendor::Nvidia),
    ("tesla", Vendor::Nvidia),
    ("radeon", Vendor::Amd),
    ("amd", Vendor::Amd),
    ("firepro", Vendor::Amd),
    ("instinct", Vendor::Amd),
    ("intel", Vendor::Intel),
    ("iris", Vendor::Intel),
    ("apple", Vendor::Apple),
    ("adreno", Vendor::Qualcomm),
    ("mali", Vendor::Arm),
    ("immortalis", Vendor::Arm),
    ("powervr", Vendor::Imagination),
    ("xclipse", Vendor::Samsung),
    ("v3d", Vendor::Broadcom),
    ("videocore", Vendor::Broadcom),
];

/// Names that say it in their own way.
const ALIASES: &[(&str, &str)] = &[
    ("custom gpu 0405", "steam deck"),
    ("custom gpu 0932", "steam deck oled"),
    ("ryzen z2 go", "radeon 680m"),
    ("v3d 4.", "videocore vi v."),
    ("v3d 7.", "videocore vii v."),
    ("laptop gpu", "mobile"),
    ("max-q", "maxq"),
    ("max-p", "maxp"),
    ("mali-g720-immortalis", "immortalis-g720"),
    ("mali-g715-immortalis", "immortalis-g715"),
    ("mali-g925-immortalis", "immortalis-g925"),
    ("(r)", " "),
    ("(tm)", " "),
    ("(c)", " "),
    ("\u{ae}", " "),
    ("\u{2122}", " "),
];

/// What a name tells.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Words {
    /// Words of the model, in lower case, each once.
    model: Vec<String>,
    /// The maker.
    pub(super) vendor: Option<Vendor>,
    /// The chip, without what separates its parts, where the name tells it beside the model.
    pub(super) chip: Option<String>,
    /// Memory in GiB, where the name tells it.
    pub(super) memory_gib: Option<f64>,
    /// Cores, where the name tells them as Arm's do.
    pub(super) cores: Option<u32>,
    /// Whether it names several models, of which it is one.
    pub(super) several: bool,
}

/// A name in lower case without what separates its parts.
pub(super) fn compact(name: &str) -> String {
    name.chars().filter(char::is_ascii_alphanumeric).map(|c| c.to_ascii_lowercase()).collect()
}

impl Words {
    /// Of a profile in the catalogue. What is in brackets tells variants of one name apart that no driver does.
    pub(super) fn of_profile(name: &str) -> Self {
        let mut told = Self::default();
        told.take(&plain(name.split(" (").next().unwrap_or(name)));
        told
    }

    /// Of what a driver or a tool prints.
    pub(super) fn of_driver(name: &str) -> Self {
        let name = without_ids(&plain(name));
        let mut told = Self::default();
        // Tools that list the bus print the chip, and in square brackets the models that it is sold as.
        let sold_as =
            name.split('[').skip(1).filter_map(|part| part.split(']').next()).find(|part| is_model(part));
        if let Some(models) = sold_as {
            told.several = models.contains('/');
            told.take(models);
            let chip = name.split('[').rev().find(|part| !part.contains(models)).unwrap_or_default();
            told.hint(name.split(models).next().unwrap_or(chip));
        } else {
            let name = unwrapped(&name);
            told.take(&outside_brackets(name));
            let mut hints = name.split('(').skip(1).filter_map(|part| part.split(')').next());
            hints.clone().for_each(|hint| told.hint(hint));
            if told.is_empty() {
                // What is in brackets is what another program printed.
                hints.find(|hint| !hint.is_empty()).into_iter().for_each(|hint| told.take(hint));
            }
        }
        if name.contains("opengl engine") {
            // Only macOS names its driver so.
            told.model.extend(["mac", "edition"].map(str::to_owned));
        }
        told
    }

    /// Takes the words of `text` that name a model.
    fn take(&mut self, text: &str) {
        let separates = |c: char| {
            c.is_whitespace() || matches!(c, ',' | ';' | ':' | '/' | '-' | '_' | '"' | '[' | ']' | '(' | ')')
        };
        let mut parts = text.split(separates).filter(|part| !part.is_empty()).peekable();
        while let Some(part) = parts.next() {
            if let Some((_, vendor)) = MAKERS.iter().find(|(word, _)| *word == part) {
                self.vendor.get_or_insert(*vendor);
            }
            if !self.is_empty() && ENDS.iter().any(|end| part.starts_with(end)) {
                return;
            }
            // `12 GB`, `12GB`
            let size = part.strip_suffix("gb").filter(|size| !size.is_empty());
            let size = size.or_else(|| (parts.peek() == Some(&"gb")).then_some(part));
            if let Some(gib) = size.and_then(|size| size.parse::<f64>().ok()) {
                self.memory_gib = Some(gib);
                parts.next_if_eq(&"gb");
                continue;
            }
            let cores =
                part.strip_prefix("mp").or_else(|| part.strip_prefix("mc")).and_then(|cores| cores.parse().ok());
            if let Some(cores) = cores {
                self.cores = Some(cores);
                continue;
            }
            if is_chip(part) {
                self.chip.get_or_insert_with(|| part.to_owned());
                continue;
            }
            // Versions and addresses.
            if part.contains('.')
                || part.starts_with("hbm")
                || part.starts_with("0x")
                || part.starts_with("gfx")
                || part.starts_with("direct3d")
            {
                continue;
            }
            for word in split_variant(part) {
                if !IDLE.contains(&word) && !self.has(word) {
                    self.model.push(word.to_owned());
                }
            }
        }
    }

    /// What stands beside the model: the chip, perhaps, and what it is built into.
    fn hint(&mut self, hint: &str) {
        let mut parts = hint.split(|c: char| c.is_whitespace() || matches!(c, ',' | '(' | ')' | '/')).peekable();
        while let Some(part) = parts.next() {
            let family = ["navi", "polaris", "vega"].iter().any(|family| part.starts_with(family));
            if part == "mobile" || (is_chip(part) && part.get(5..).is_some_and(|rest| rest.contains('m'))) {
                self.mobile();
            }
            if is_chip(part) || (family && part.len() > 5) {
                self.chip.get_or_insert_with(|| compact(part));
            } else if family {
                let number = parts.peek().copied().unwrap_or_default();
                if number.bytes().all(|byte| byte.is_ascii_digit()) && !number.is_empty() {
                    self.chip.get_or_insert_with(|| compact(&format!("{part}{number}")));
                }
            }
            // Intel's chips of laptops.
            if ["-h", "-u", "-y"].iter().any(|end| part.ends_with(end)) && part.contains("lake") {
                self.mobile();
            }
        }
    }

    /// It is built into a laptop.
    pub(super) fn mobile(&mut self) {
        if !self.has("mobile") {
            self.model.push("mobile".to_owned());
        }
    }

    pub(super) fn has(&self, word: &str) -> bool {
        self.model.iter().any(|known| known == word)
    }

    /// Words with digits, which name the model; all words where there are none.
    pub(super) fn keys(&self) -> impl Iterator<Item = &str> {
        let numbered = self.model.iter().any(|word| is_numbered(word));
        self.model.iter().map(String::as_str).filter(move |word| is_numbered(word) || !numbered)
    }

    /// The first word with digits.
    pub(super) fn key(&self) -> Option<&str> {
        self.model.iter().map(String::as_str).find(|word| is_numbered(word))
    }

    /// True if no word is left.
    pub(super) fn is_empty(&self) -> bool {
        self.model.is_empty()
    }

    /// How much of the words one has and the other lacks; `None` if it is a word with digits, or any where the profile's
    /// name has none.
    pub(super) fn spare(&self, profile: &Self, form: Form) -> Option<f32> {
        let lacks = |one: &Self, other: &Self| one.model.iter().any(|word| is_numbered(word) && !other.has(word));
        if lacks(profile, self) || (lacks(self, profile) && !self.several) {
            return None;
        }
        let named =
            profile.key().is_some() || profile.model.iter().all(|word| self.has(word) || word.ends_with("eu"));
        if !named {
            return None;
        }
        let weight = |word: &str| match word {
            // What is built into a processor is sold by one name for desktops and laptops.
            "mobile" if form == Form::Integrated => 0.0,
            "mac" | "edition" => 0.0,
            "maxq" => 1.2,
            "geforce" | "quadro" | "tesla" | "radeon" | "pro" => 1.5,
            word if word.ends_with("eu") => 0.6,
            _ => 1.0,
        };
        // Names of what is made for laptops alone do not say so.
        let surplus = |word: &str| if word == "mobile" && form != Form::Card { 0.0 } else { weight(word) };
        let missing: f32 = profile.model.iter().filter(|word| !self.has(word)).map(|word| weight(word)).sum();
        let more: f32 = self.model.iter().filter(|word| !profile.has(word)).map(|word| surplus(word)).sum();
        Some(missing + if self.several { 0.0 } else { more })
    }

    /// Whether only the count of execution units, which `told` does not tell, sets this one apart from its family.
    pub(super) fn is_family_but_for_units(&self, told: &Self) -> bool {
        self.key().is_none() && self.model.iter().any(|word| word.ends_with("eu") && !told.has(word))
    }

    /// How many of the words of `profile` that `other` lacks are here.
    pub(super) fn adds(&self, profile: &Self, other: &Self) -> usize {
        profile.model.iter().filter(|word| self.has(word) && !other.has(word)).count()
    }
}

/// The name in lower case, with one spelling for what has several.
fn plain(name: &str) -> String {
    let mut name = name.to_lowercase();
    for (alias, spelling) in ALIASES {
        if name.contains(alias) {
            name = name.replace(alias, spelling);
        }
    }
    let slash = name.find("/pcie").or_else(|| name.find("/sse2"));
    name.truncate(slash.unwrap_or(name.len()));
    name
}

/// Words with digits name a model, except counts of execution units and sockets.
fn is_numbered(word: &str) -> bool {
    word.bytes().any(|byte| byte.is_ascii_digit()) && !word.ends_with("eu") && !word.starts_with("sxm")
}

/// Whether square brackets hold models: not an id, nor a maker.
fn is_model(text: &str) -> bool {
    let id = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_hexdigit() || byte == b':' || byte == b'x');
    !id && text != "amd/ati"
}

/// The name without ids in square brackets and without what a tool that lists the bus puts in front.
fn without_ids(name: &str) -> String {
    let mut text = String::with_capacity(name.len());
    for (number, part) in name.split('[').enumerate() {
        match part.split_once(']') {
            Some((inner, rest)) if number > 0 && !is_model(inner) => text.push_str(rest),
            _ if number > 0 => text.extend(["[", part]),
            _ => text.push_str(part),
        }
    }
    match text.split_once("controller") {
        Some((_, rest)) => rest.trim_start_matches([' ', ':']).to_owned(),
        None => text,
    }
}

/// What a program printed that another one passes on: the innermost.
fn unwrapped(name: &str) -> &str {
    let mut name = name.rsplit("metal renderer:").next().unwrap_or(name);
    while let Some((outer, inner)) = name.split_once('(') {
        let outer = outer.trim();
        let wraps =
            ["angle", "d3d12", "virgl", "microsoft direct3d12"].iter().any(|program| outer.ends_with(program));
        if !wraps && !outer.starts_with("zink") {
            break;
        }
        name = inner;
    }
    name
}

/// `3060ti` as `3060` and `ti`.
fn split_variant(part: &str) -> impl Iterator<Item = &str> {
    let split = ["ti", "super", "xt", "xtx"].iter().find_map(|variant| {
        let number = part.strip_suffix(variant)?;
        (number.len() >= 3 && number.bytes().all(|byte| byte.is_ascii_digit())).then_some((number, *variant))
    });
    let (first, second) = split.map_or((part, None), |(number, variant)| (number, Some(variant)));
    [Some(first), second].into_iter().flatten()
}

/// NVIDIA's names of chips: `GA106`, `AD102`, `TU116M`.
fn is_chip(part: &str) -> bool {
    let letters = part.bytes().take_while(u8::is_ascii_lowercase).count();
    let (letters, number) = part.split_at(letters);
    let digits = number.bytes().take_while(u8::is_ascii_digit).count();
    matches!(letters, "gk" | "gm" | "gp" | "gv" | "tu" | "ga" | "gh" | "ad" | "gb") && digits == 3
}

/// The name without what stands in brackets.
fn outside_brackets(name: &str) -> String {
    let mut depth = 0_u32;
    let outside = |character: &char| {
        match character {
            '(' => depth += 1,
            ')' => depth = depth.saturating_sub(1),
            _ => return depth == 0,
        }
        false
    };
    name.chars().filter(outside).collect()
}

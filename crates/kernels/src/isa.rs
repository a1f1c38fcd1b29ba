//! The instruction set, chosen once.

use std::sync::OnceLock;

use crate::dot::has_bf16;

/// A family of instructions that kernels are compiled for.
///
/// Who has one may call every kernel with it, so other crates cannot name those that a machine may lack, and get them from
/// [`Isa::best`] and [`Isa::available`] alone:
///
/// ```compile_fail,E0603
/// let unchecked = dots_kernels::Isa::Avx512;
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Isa {
    /// AVX-512 with VNNI (and F, BW, DQ, VL, F16C, FMA).
    #[non_exhaustive]
    Avx512,
    /// AVX2 with FMA and F16C.
    #[non_exhaustive]
    Avx2,
    /// Whatever the target guarantees; vectorised by the compiler (NEON on 64-bit Arm).
    Portable,
}

impl Isa {
    /// The best one that this machine runs.
    pub fn best() -> Self {
        static BEST: OnceLock<Isa> = OnceLock::new();
        *BEST.get_or_init(|| *Self::available().first().expect("`available` ends in Portable"))
    }

    /// Every one that this machine runs, best first.
    pub fn available() -> Vec<Self> {
        let mut found = Vec::new();
        #[cfg(target_arch = "x86_64")]
        {
            use std::arch::is_x86_feature_detected as has;
            let avx2 = has!("avx2") && has!("fma") && has!("f16c");
            if avx2 && has!("avx512f") && has!("avx512bw") && has!("avx512dq") && has!("avx512vl") && has!("avx512vnni")
            {
                found.push(Self::Avx512);
            }
            if avx2 {
                found.push(Self::Avx2);
            }
        }
        found.push(Self::Portable);
        found
    }

    /// Its name, for people and for what must not be mixed: kernels give the same bits on two machines where it is the same. So it says
    /// whether this machine multiplies bf16 numbers too, whose sums are rounded otherwise.
    pub fn name(self) -> &'static str {
        match self {
            Self::Avx512 if has_bf16(self) => "AVX-512 VNNI and BF16",
            Self::Avx512 => "AVX-512 VNNI",
            Self::Avx2 => "AVX2",
            Self::Portable => "portable",
        }
    }
}

/// The family of a processor of AMD's, as it tells it: 0x19 is Zen 4 where there is AVX-512, 0x1a Zen 5. `None` for others.
pub(crate) fn amd_family() -> Option<u32> {
    #[cfg(target_arch = "x86_64")]
    {
        use std::{arch::x86_64::__cpuid, sync::OnceLock};
        static FAMILY: OnceLock<Option<u32>> = OnceLock::new();
        *FAMILY.get_or_init(|| {
            let (vendor, version) = (__cpuid(0), __cpuid(1).eax);
            let family = (version >> 8 & 15) + (version >> 20 & 255);
            // "AuthenticAMD".
            (vendor.ebx == u32::from_le_bytes(*b"Auth")).then_some(family)
        })
    }
    #[cfg(not(target_arch = "x86_64"))]
    None
}

/// An array, one element after the other. The standard library's ways to make one know nothing of instruction sets, and what they call is not
/// always inlined into a function for one.
#[inline(always)]
pub(crate) fn array<T: Copy, const N: usize>(of: impl Fn(usize) -> T) -> [T; N] {
    let mut out = [of(0); N];
    for (i, out) in out.iter_mut().enumerate().skip(1) {
        *out = of(i);
    }
    out
}

/// Compiles one `#[inline(always)]` body for every instruction set, and makes the function that picks among them by its
/// first argument. The bodies are written so that the compiler vectorises them.
macro_rules! for_each_isa {
    ($(#[$meta:meta])* $vis:vis fn $name:ident $(<$generic:ident: $bound:path>)? ($($arg:ident: $type:ty),* $(,)?) $(-> $ret:ty)? = $body:path) => {
        $(#[$meta])*
        #[allow(clippy::too_many_arguments, reason = "as many as the body has")]
        $vis fn $name $(<$generic: $bound>)? (isa: $crate::isa::Isa, $($arg: $type),*) $(-> $ret)? {
            #[cfg(target_arch = "x86_64")]
            #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx2,fma,f16c")]
            #[allow(clippy::too_many_arguments, reason = "as many as the body has")]
            fn avx512 $(<$generic: $bound>)? ($($arg: $type),*) $(-> $ret)? {
                $body($($arg),*)
            }
            #[cfg(target_arch = "x86_64")]
            #[target_feature(enable = "avx2,fma,f16c")]
            #[allow(clippy::too_many_arguments, reason = "as many as the body has")]
            fn avx2 $(<$generic: $bound>)? ($($arg: $type),*) $(-> $ret)? {
                $body($($arg),*)
            }
            match isa {
                // SAFETY: an `Isa` other than Portable only comes from `Isa::available`, which asked the processor.
                #[cfg(target_arch = "x86_64")]
                $crate::isa::Isa::Avx512 => unsafe { avx512($($arg),*) },
                // SAFETY: as above.
                #[cfg(target_arch = "x86_64")]
                $crate::isa::Isa::Avx2 => unsafe { avx2($($arg),*) },
                _ => $body($($arg),*),
            }
        }
    };
}
pub(crate) use for_each_isa;

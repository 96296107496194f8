//! Errors of the protocol as the numbers that programs know.

use fuser::Errno;
use oa_nips::files::Code;

/// The number for a code.
///
/// | code | errno | |
/// |---|---|---|
/// | `not_found` | `ENOENT` | |
/// | `permission_denied` | `EACCES` | |
/// | `exists` | `EEXIST` | `ENOTEMPTY` where a folder was to be removed or replaced |
/// | `not_dir`, `is_dir` | `ENOTDIR`, `EISDIR` | |
/// | `invalid_path`, `invalid_input` | `EINVAL` | |
/// | `budget_exceeded` | `EDQUOT` | |
/// | `approval_required` | `EPERM` | not `EACCES`: somebody has to consent first, and may |
/// | `too_large` | `EFBIG` | |
/// | `rate_limited` | `EAGAIN` | later it works |
/// | `stale`, `unavailable`, `outcome_unknown`, `io` | `EIO` | also: no answer within the deadline |
pub(super) fn errno(code: Code) -> Errno {
    match code {
        Code::NotFound => Errno::ENOENT,
        Code::PermissionDenied => Errno::EACCES,
        Code::Exists => Errno::EEXIST,
        Code::NotDir => Errno::ENOTDIR,
        Code::IsDir => Errno::EISDIR,
        Code::InvalidPath | Code::InvalidInput => Errno::EINVAL,
        Code::BudgetExceeded => Errno::EDQUOT,
        Code::ApprovalRequired => Errno::EPERM,
        Code::TooLarge => Errno::EFBIG,
        Code::RateLimited => Errno::EAGAIN,
        Code::Stale | Code::Unavailable | Code::OutcomeUnknown | Code::Io => Errno::EIO,
    }
}

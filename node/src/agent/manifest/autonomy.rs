//! `[autonomy]` of a manifest: what an agent does by itself, and what it asks for.

use std::fmt;

use serde::{Deserialize, Serialize};

/// `[autonomy]`: what the agent may do without asking its owner.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Autonomy {
    /// How free it is.
    pub level: Level,
    /// Under `semi_autonomous`: what needs consent. Whatever else does not.
    pub require_approval: Vec<Category>,
}

/// How free an agent is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Level {
    /// Everything that reaches beyond its own files needs consent; answering does not.
    Supervised,
    /// What is listed needs consent.
    SemiAutonomous,
    /// Nothing needs consent but what a mount's budget says.
    #[default]
    Autonomous,
}

/// What a change amounts to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Category {
    WriteFile,
    ExecuteCode,
    SendMessage,
    SpendMoney,
    ExternalApi,
    CreateAgent,
    ModifyGoals,
}

impl fmt::Display for Category {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::WriteFile => "write_file",
            Self::ExecuteCode => "execute_code",
            Self::SendMessage => "send_message",
            Self::SpendMoney => "spend_money",
            Self::ExternalApi => "external_api",
            Self::CreateAgent => "create_agent",
            Self::ModifyGoals => "modify_goals",
        })
    }
}

impl Autonomy {
    /// Whether a change of this category needs consent.
    pub fn asks(&self, category: Category) -> bool {
        match self.level {
            Level::Supervised => true,
            Level::SemiAutonomous => self.require_approval.contains(&category),
            Level::Autonomous => false,
        }
    }
}

//! See README of agent/.

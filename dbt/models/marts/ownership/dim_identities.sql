-- One row per identity: what fragments of the bill can be recognised by.
select
    identity_id,
    provider,
    account_id,
    provider_project_id,
    provider_project_name,
    api_key_id,
    api_key_name,
    principal_id,
    principal_name,
    gateway,
    gateway_key_id,
    gateway_key_name,
    gateway_team,
    gateway_team_name,
    gateway_user,
    deciding_model,
    deciding_line_item,
    deciding_tags
from {{ ref("int_identities") }}

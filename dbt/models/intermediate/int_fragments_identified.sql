-- One row per fragment, with its id, its gateway identity and tags, and the id of the identity that decides its owner.
-- Tags are those of the requests, and where they do not say, those that the bill prints on the line.
with requests as (
    select
        groups.*,
        {{ tags_among("groups.tags", "asked.tag_keys") }} as deciding_tags
    from {{ ref("int_request_groups") }} as groups
    cross join {{ ref("int_asked_by_map") }} as asked
),

identified as (
    select
        fragments.* exclude (charge_tags),
        requests.gateway,
        requests.gateway_key_id,
        requests.gateway_key_name,
        requests.gateway_team,
        requests.gateway_team_name,
        requests.gateway_user,
        {{ said_by("requests.tags", "fragments.charge_tags") }} as tags,
        case when asked.has_model then fragments.model end as deciding_model,
        case when asked.has_line_item then fragments.line_item end as deciding_line_item,
        {{ said_by("requests.deciding_tags", tags_among("fragments.charge_tags", "asked.tag_keys")) }} as deciding_tags
    from {{ ref("int_fragments_cut") }} as fragments
    cross join {{ ref("int_asked_by_map") }} as asked
    left join requests on fragments.request_group_id = requests.request_group_id
)

select
    * exclude (deciding_model, deciding_line_item, deciding_tags),
    md5({{ key_of(["charge_id", "cell_id", "request_group_id", "meter"]) }}) as fragment_id,
    md5({{ key_of(identity_columns()) }}) as identity_id
from identified

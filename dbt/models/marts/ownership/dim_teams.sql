-- One row per team of the ownership map.
select team, cost_center, owner, channel, place
from {{ source("lake", "ownership_teams") }}

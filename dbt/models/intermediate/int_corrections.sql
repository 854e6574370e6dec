-- One row per allocation by which the first open month corrects a closed one: closed months do not move.
-- A line of the bill (or the estimate of a day without one) whose amount is another than what is booked is corrected by
-- the difference, divided as it would be today; one that is gone is taken back from those who paid it. What only moved
-- between owners, because the map or a price was edited, stays where it was booked.
{% set figures = [
    ("cost_usd", money_weight("abs(cost_usd)")),
    ("list_cost_usd", money_weight("abs(list_cost_usd)")),
    ("quantity", quantity_weight("abs(quantity)")),
] %}
with booked as (
    select *, {{ booking_of("known_of_date") }} as booking
    from {{ ref("int_allocations_closed") }}
),

known as (
    select allocations.*, {{ booking_of("usage_date") }} as booking
    from {{ ref("int_allocations") }} as allocations
    -- nothing is looked at while no month is closed
    inner join (select * from {{ ref("int_closed_through") }} where closed_through is not null) as closed
        on allocations.usage_date < closed.first_open_month
),

-- `count(*)` tells what is there without money from what is not there.
{% for side in ["booked", "known"] %}
{{ side }}_bookings as (
    select booking, count(*) as parts, coalesce(sum(cost_usd), 0) as cost_usd, coalesce(sum(quantity), 0) as quantity
    from {{ side }}
    group by booking
),

{{ side }}_meters as (
    select
        booking,
        meter,
        {%- for figure, _ in figures %}
        sum({{ figure }}) as {{ figure }}_sum{{ "," if not loop.last }}
        {%- endfor %}
    from {{ side }}
    group by booking, meter
),
{% endfor %}

changed as (
    select coalesce(booked.booking, known.booking) as booking
    from booked_bookings as booked
    full outer join known_bookings as known on booked.booking = known.booking
    where
        coalesce(booked.cost_usd, 0) <> coalesce(known.cost_usd, 0)
        or booked.parts is null
        -- usage that no money tells of is gone, or has come back
        or (coalesce(booked.quantity, 0) = 0) <> (coalesce(known.quantity, 0) = 0)
),

-- What is known now, and how much of it is not booked yet, by meter. What has no price any more takes back all.
owed as (
    select
        known.*,
        {% for figure, weight in figures %}
        case
            when coalesce(known_meters.{{ figure }}_sum, booked_meters.{{ figure }}_sum) is not null
                then coalesce(known_meters.{{ figure }}_sum, 0) - coalesce(booked_meters.{{ figure }}_sum, 0)
        end as {{ figure }}_owed,
        coalesce({{ weight }}, 0) as {{ figure }}_weight{{ "," if not loop.last }}
        {% endfor %}
    from known
    inner join changed on known.booking = changed.booking
    inner join known_meters on known.booking = known_meters.booking and known.meter = known_meters.meter
    left join booked_meters on known.booking = booked_meters.booking and known.meter = booked_meters.meter
),

never_zero as (
    select
        * replace (
            {% for figure, _ in figures %}
            case when sum({{ figure }}_weight) over owed_by_meter = 0 then 1 else {{ figure }}_weight end
                as {{ figure }}_weight{{ "," if not loop.last }}
            {% endfor %}
        )
    from owed
    window owed_by_meter as (partition by booking, meter)
),

cumulated as (
    select
        *,
        {% for figure, _ in figures %}
        sum({{ figure }}_weight) over (owed_by_meter order by allocation_id rows unbounded preceding)
            as {{ figure }}_upto,
        sum({{ figure }}_weight) over (owed_by_meter) as {{ figure }}_total{{ "," if not loop.last }}
        {% endfor %}
    from never_zero
    window owed_by_meter as (partition by booking, meter)
),

added as (
    select
        * exclude (
            booking
            {%- for figure, _ in figures %},
            {{ figure }}_owed, {{ figure }}_weight, {{ figure }}_upto, {{ figure }}_total
            {%- endfor %}
        ) replace (
            {% for figure, _ in figures %}
            {{ exact_share(
                figure ~ "_owed", figure ~ "_weight", figure ~ "_upto", figure ~ "_total",
                quantity_units(figure ~ "_owed") if figure == "quantity" else "1000000000000"
            ) }} as {{ figure }}{{ "," if not loop.last }}
            {% endfor %}
        ),
        usage_date as corrects_date
    from cumulated
),

taken_back as (
    select
        booked.* exclude (booking, known_of_date, is_closed, corrects_date) replace (
            {% for figure, _ in figures %}
            -booked.{{ figure }} as {{ figure }}{{ "," if not loop.last }}
            {% endfor %}
        ),
        booked.known_of_date as corrects_date
    from booked
    inner join changed on booked.booking = changed.booking
    where not exists (
        select 1 from known_meters where known_meters.booking = booked.booking and known_meters.meter = booked.meter
    )
)

select
    corrections.* replace (
        concat(corrections.allocation_id, '/', closed.first_open_month) as allocation_id,
        closed.first_open_month as usage_date
    )
from (
    select * from added
    union all by name
    select * from taken_back
) as corrections
cross join {{ ref("int_closed_through") }} as closed
where
    corrections.cost_usd <> 0
    or corrections.list_cost_usd <> 0
    or corrections.quantity <> 0
    or corrections.cost_usd is null

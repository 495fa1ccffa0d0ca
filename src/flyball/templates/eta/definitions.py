"""Trip minutes at pickup: one source, one feature view, one model."""

import flyball as fb

zone = fb.Entity("zone", keys={"pickup_zone": int})

trips = fb.ParquetSource(
    "trips",
    "data/trips/*.parquet",
    event_time="dropoff_at",  # a trip is known at drop-off
    timezone="America/New_York",
    derive={
        "minutes": "(dropoff_at - pickup_at) / 1m",
        "speed": "distance_miles / ((dropoff_at - pickup_at) / 1h)",
    },
    where="minutes between 1 and 60 and distance_miles > 0 and distance_miles <= 50",
)

zone_traffic = fb.FeatureView(
    "zone_traffic",
    entity=zone,
    source=trips,
    ttl="7d",
    features=[
        fb.count("trips_1h", window="1h"),
        fb.count("trips_24h", window="24h"),
        fb.mean("minutes_24h", of="minutes", window="24h"),
        fb.mean("speed_24h", of="speed", window="24h"),
    ],
)


def train(data: fb.TrainingSet, params: fb.Params):
    """Fit boosted trees on the squared error."""
    from sklearn.ensemble import HistGradientBoostingRegressor

    return HistGradientBoostingRegressor(random_state=0, **params).fit(data.X, data.y)


eta = fb.Model(
    "eta",
    examples=fb.Examples(trips, at="pickup_at"),
    features=[
        zone_traffic,
        fb.Field("distance_miles", float),
        fb.Field("pickup_zone", int),
        fb.Field("dropoff_zone", int),
        fb.hour_of_day("pickup_at"),
        fb.day_of_week("pickup_at"),
    ],
    label=fb.Label("minutes", matures="2h"),
    train=train,
    params={"max_iter": 200},
    train_on="7d",
    holdout="20%",
    gates=[
        fb.gate.beats_champion("mae", margin="1%"),
        fb.gate.metric("mae", max=10),
        fb.gate.latency(p99="50ms"),
        fb.gate.size("50MB"),
        fb.gate.bounds(low=-30, high=120),
    ],
    rollout=fb.Rollout(
        shadow="3h",
        steps=["10%", "50%"],
        bake="3h",
        min_requests=100,
        guardrails=[fb.guard.errors(margin="1pp"), fb.guard.metric("mae", margin="5%")],
    ),
    monitors=[fb.monitor.drift(window="1d"), fb.monitor.performance("mae")],
    retrain=fb.Retrain(on=[fb.on.drift(), fb.on.schedule("0 4 1,15 * *")], cooldown="48h", budget="2/week"),
)

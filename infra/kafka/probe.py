"""Asks a Kafka cluster a real question."""

from confluent_kafka.admin import AdminClient


def probe(address: str, timeout_seconds: float) -> str:
    """What answers, e.g. `cluster Q3…, 1 broker`: Kafka's protocol names no version of the server.

    `address` is host:port[,host:port]. Raises confluent_kafka.KafkaException when nothing answers in time.
    """
    client = AdminClient({"bootstrap.servers": address, "log_level": 0})
    metadata = client.list_topics(timeout=timeout_seconds)
    brokers = len(metadata.brokers)
    return f"cluster {metadata.cluster_id}, {brokers} broker{'' if brokers == 1 else 's'}"

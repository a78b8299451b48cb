"""RabbitMQ (3.10 to 4.x) as the bus, by pika."""
